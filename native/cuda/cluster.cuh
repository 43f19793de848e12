// The kernel for rows that fit into the shared memory of a cluster (sm_90 and later): one cluster per row, every tensor
// read once.
//
// The blocks of a cluster share the tiles of a row, sum them and keep d = u_theta - u; sums of tiles go to the first
// block, which adds them up in tile order, runs the objective and hands the coefficients to the others; then each block
// writes the gradient of what it kept. Blocks of a cluster run together, so their barriers need no cooperative launch,
// and rows do not wait for each other. The first block that finishes last of all rows forms the metrics. The workspace
// gives its counters only, and finds them at zero again.
#pragma once

#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "exchange.cuh"
#include "keep.cuh"
#include "poison.cuh"
#include "reduce.cuh"
#include "row.cuh"

namespace sdpo::cuda {

struct ClusterShared {
  BlockSums sums;
  RowCoefficients coefficients;
  uint32_t flag;  // RowFlag
  uint32_t last;  // whether all rows are finished
};

// Older architectures get an empty kernel, which nobody launches (design.cu asks for what it was compiled).
template <class E>
__global__ void __launch_bounds__(kThreads* kClusterGroups, 1)
    cluster_kernel(const __grid_constant__ LossArguments a, const __grid_constant__ ClusterPlan plan) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  static_assert(10 * kClusterCapability == 900, "as in the line above");
  using S = typename E::Compute;
  extern __shared__ __align__(16) unsigned char cluster_memory[];
  __shared__ ClusterShared shared;
  S* const warp_sums =
      reinterpret_cast<S*>(cluster_memory + plan.kept_bytes + plan.tile_sums_bytes);  // [tiles][kWarps][kPlainSums]
  double* const tile_sums =
      reinterpret_cast<double*>(cluster_memory + plan.kept_bytes);  // [tiles of the row][kPlainSums]
  const Kept<E> kept{reinterpret_cast<Chunk<S>*>(cluster_memory), static_cast<int>(blockDim.x),
                     static_cast<int>(threadIdx.x)};

  const auto cluster = cooperative_groups::this_cluster();
  const int rank = static_cast<int>(cluster.block_rank()), blocks = plan.blocks;
  // Memory of another block may be written once that block runs; told now, waited for after the moments.
  cluster.barrier_arrive();

  const int64_t row = blockIdx.x / static_cast<unsigned>(blocks);
  const int tiles = static_cast<int>(a.order.moment_tiles);
  const int own = rank < tiles ? (tiles - rank + blocks - 1) / blocks : 0;  // tiles of this block
  const int group = static_cast<int>(threadIdx.x) / kThreads, thread = static_cast<int>(threadIdx.x) % kThreads;
  const CacheHints hints = make_cache_hints();
  int slot = 0;
  for (int j = group; j < own; j += plan.groups, slot += a.packs) {
    S sums[kPlainSums];
    keep_moments_of_tile<E>(a, hints, row, rank + static_cast<int64_t>(j) * blocks, thread, slot, kept, sums);
    store_warp_totals(sums, warp_sums + (j * kWarps + thread / 32) * kPlainSums);
  }
  __syncthreads();
  cluster.barrier_wait();

  double* const first_tile_sums = cluster.map_shared_rank(tile_sums, 0);
  for (int i = static_cast<int>(threadIdx.x); i < own * kPlainSums; i += static_cast<int>(blockDim.x)) {
    const int j = i / kPlainSums, field = i % kPlainSums;
    const S* const warps = warp_sums + j * kWarps * kPlainSums + field;
    double total = warps[0];
#pragma unroll
    for (int w = 1; w < kWarps; ++w) total = combine_sums<double>(field, total, warps[w * kPlainSums]);
    first_tile_sums[(rank + j * blocks) * kPlainSums + field] = total;
  }
  cluster.sync();

  if (rank == 0) {
    double sums[kPlainSums];
    if (threadIdx.x < kThreads) thread_total_of_tiles(tile_sums, 0, tiles, tiles, thread, sums);
    const double total = block_total(sums, shared.sums);
    __syncthreads();
    if (threadIdx.x < Sum::count) shared.sums.warp[0][threadIdx.x] = total;
    __syncthreads();
    if (threadIdx.x == 0) {
      unsigned long long failure = 0;
      shared.flag = finish_row<true>(a, row, shared.sums.warp[0], &shared.coefficients, &failure);
      if (shared.flag == RowFlag::invalid) atomicMax(&a.workspace.control->failure, failure);
    }
    __syncthreads();
    if (threadIdx.x > 0 && threadIdx.x < blocks) {
      ClusterShared* const other = cluster.map_shared_rank(&shared, static_cast<int>(threadIdx.x));
      other->flag = shared.flag;
      if (shared.flag != RowFlag::invalid) other->coefficients = shared.coefficients;
    }
  }
  cluster.sync();  // from here on nobody touches another block's memory

  if (shared.flag != RowFlag::invalid) {
    const RowCoefficients coefficients = shared.coefficients;
    slot = 0;
    for (int j = group; j < own; j += plan.groups, slot += a.packs) {
      kept_gradient_of_tile<E>(a, hints, row, rank + static_cast<int64_t>(j) * blocks, thread, slot, kept,
                               coefficients);
    }
  } else if (a.poison) {
    for (int j = group; j < own; j += plan.groups)
      poison_tile<E>(a, hints, row, rank + static_cast<int64_t>(j) * blocks, thread);
  }

  if (rank != 0) return;
  Control* const control = a.workspace.control;
  if (threadIdx.x == 0) shared.last = arrive(&control->rows_done) == a.rows - 1;
  __syncthreads();
  if (!shared.last) return;
  if (threadIdx.x < Metric::count) {
    a.metrics[threadIdx.x] =
        batch_metric(static_cast<int>(threadIdx.x), a.of.rules.options, a.denominator, a.outputs, a.rows);
  }
  if (threadIdx.x == 0) {
    *a.failure = control->failure;
    control->failure = 0;
    control->rows_done = 0;
  }
#endif
}

}  // namespace sdpo::cuda
