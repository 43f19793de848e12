// Reductions of a block in one fixed order: a tree over the lanes of a warp, then the warps one after the other in
// float64.
//
// Lanes hold the compute type (float32 for all but float64), as on the CPU: a lane has added at most 32 products before
// the tree, and from the warps on everything is float64. CUB promises no order of its own between versions, so it is
// not used here.
#pragma once

#include "arguments.h"
#include "pack.cuh"
#include "policy.h"

namespace sdpo::cuda {

constexpr int kWarps = kThreads / 32;

// Every sum is an addition but the lowest weight, which is a minimum; a NaN weight shows in the sum of weights.
template <class S>
SDPO_CUDA_HD S combine_sums(int field, S a, S b) {
  return field == Sum::lowest_weight ? (b < a ? b : a) : add(a, b);
}

struct BlockSums {
  double warp[kWarps][Sum::count];
};

#if defined(__CUDACC__)

// Adds up `values` over the warp; its first lane writes the sums to `out`.
template <int N, class S, class T>
__device__ __forceinline__ void store_warp_totals(const S (&values)[N], T* out) {
#pragma unroll
  for (int f = 0; f < N; ++f) {
    S sum = values[f];
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2)
      sum = combine_sums(f, sum, __shfl_xor_sync(0xffffffffu, sum, offset));
    if (threadIdx.x % 32 == 0) out[f] = sum;
  }
}

// Adds up `values` over kThreads threads. Thread f < N returns the total of field f, the others 0. Holds one barrier;
// the caller needs another one before `shared` is used again.
template <int N, class S>
__device__ __forceinline__ double block_total(const S (&values)[N], BlockSums& shared) {
  store_warp_totals(values, shared.warp[threadIdx.x / 32]);
  __syncthreads();
  double total = 0;
  if (threadIdx.x < N) {
    total = shared.warp[0][threadIdx.x];
#pragma unroll
    for (int w = 1; w < kWarps; ++w)
      total = combine_sums(static_cast<int>(threadIdx.x), total, shared.warp[w][threadIdx.x]);
  }
  return total;
}

#endif

// The same sums in the same order on the host, for tests: values[thread][field] to totals[field].
template <int N, class S>
inline void host_block_total(const S (*values)[N], double* totals) {
  for (int f = 0; f < N; ++f) {
    for (int warp = 0; warp < kWarps; ++warp) {
      S lanes[32], next[32];
      for (int i = 0; i < 32; ++i) lanes[i] = values[32 * warp + i][f];
      for (int offset = 16; offset > 0; offset /= 2) {
        for (int i = 0; i < 32; ++i) next[i] = combine_sums(f, lanes[i], lanes[i ^ offset]);
        for (int i = 0; i < 32; ++i) lanes[i] = next[i];
      }
      totals[f] = warp == 0 ? static_cast<double>(lanes[0]) : combine_sums<double>(f, totals[f], lanes[0]);
    }
  }
}

// Tiles of a row added up by one thread of kThreads: tiles thread, thread + 128, ..., one after the other. The first of
// the row lies in a slot of a ring, which has room for the row.
template <int N>
SDPO_CUDA_HD void thread_total_of_row(const LossArguments& a, int64_t row, int thread, double (&sums)[N]) {
  const int64_t tiles = a.order.moment_tiles, ring = a.workspace.ring;
  SDPO_UNROLL
  for (int f = 0; f < N; ++f) sums[f] = 0;
  int64_t slot = (row * tiles + thread) % ring;
  SDPO_NO_UNROLL
  for (int64_t tile = thread; tile < tiles; tile += kThreads) {
    const double* partial = a.workspace.partials + slot * N;
    SDPO_UNROLL
    for (int f = 0; f < N; ++f) sums[f] = combine_sums(f, sums[f], partial[f]);
    slot += kThreads;
    if (slot >= ring) slot -= ring;  // a ring shorter than a block is not gone round
  }
}

}  // namespace sdpo::cuda
