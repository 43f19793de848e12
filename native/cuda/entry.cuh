// The kernels of one element access, as kernels.h lists them.
#pragma once

#include "kernel.cuh"

namespace sdpo::cuda {

template <class E, bool kPlain>
KernelEntry kernel_entry() {
  return {reinterpret_cast<const void*>(&evaluate_kernel<E, kPlain>), E::kPack, kSumsOf<kPlain>};
}

}  // namespace sdpo::cuda
