// What a failed row leaves in the place of its gradient, for host and device compilers.
#pragma once

#include "tile.cuh"

namespace sdpo::cuda {

// NaN in every element, also where the row's weights are 0: they may be what is wrong. For calls whose results nobody
// looks at before the gradient is used; where the host looks, the call fails and the gradient is nobody's.
template <class E>
SDPO_CUDA_HD void poison_tile(const LossArguments& a, const CacheHints& hints, int64_t row, int64_t tile, int thread) {
  using S = typename E::Compute;
  SDPO_NO_UNROLL
  for (int branch = 0; branch < 2; ++branch) {
    const MutableTensorView& gradient = (branch == 0 ? a.chosen : a.rejected).gradient;
    if (gradient.data == nullptr) continue;
    const typename E::Source out = E::source(gradient.data, gradient.row_stride, gradient.dtype, row);
    for_packs<E>(
        a, tile, thread, E::aligned(out),
        [&](int64_t element) {
          S values[E::kPack];
          SDPO_UNROLL
          for (int i = 0; i < E::kPack; ++i) values[i] = S(NAN);
          E::store(out, element, values, hints.pass);
        },
        [&](int64_t i) { E::store_one(out, i, S(NAN)); });
  }
}

}  // namespace sdpo::cuda
