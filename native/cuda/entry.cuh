// The kernels of one element access, as kernels.h lists them.
#pragma once

#include "cluster.cuh"
#include "kernel.cuh"

namespace sdpo::cuda {

template <class E, bool kPlain>
KernelEntry kernel_entry() {
  const void* cluster = nullptr;
  if constexpr (kPlain) cluster = reinterpret_cast<const void*>(&cluster_kernel<E>);
  return {reinterpret_cast<const void*>(&evaluate_kernel<E, kPlain>), cluster, E::kPack,
          static_cast<int>(sizeof(typename E::Compute)), kSumsOf<kPlain>};
}

}  // namespace sdpo::cuda
