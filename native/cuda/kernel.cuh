// The fused kernel: moments, objective and gradient of a whole batch in one launch of persistent blocks.
//
// Blocks draw tickets in the order of order.h. A moments tile leaves its sums in the workspace; the block that brings a
// row's last tile adds them up in tile order, runs the objective and raises the row's flag; a gradient tile waits for
// that flag. The block that finishes the last row forms the metrics, and the last block to leave puts the counters back
// to zero for the next launch.
#pragma once

#include <cuda_runtime.h>

#include "exchange.cuh"
#include "kernels.h"
#include "poison.cuh"
#include "reduce.cuh"
#include "row.cuh"
#include "tile.cuh"

namespace sdpo::cuda {

struct KernelShared {
  BlockSums sums;
  unsigned long long ticket;
  unsigned long long next;  // thread 0's alone: the ticket behind it
  uint32_t word;            // what thread 0 found out for the block
};

// ---- Phases

// The block that brought the last tile of a row finishes the row.
template <bool kPlain>
__device__ __forceinline__ void finish_row_as_block(const LossArguments& a, int64_t row, KernelShared& shared) {
  constexpr int kSums = kSumsOf<kPlain>;
  double sums[kSums];
  thread_total_of_row(a, row, static_cast<int>(threadIdx.x), sums);
  const double total = block_total(sums, shared.sums);
  __syncthreads();
  if (threadIdx.x < Sum::count) shared.sums.warp[0][threadIdx.x] = total;
  __syncthreads();
  if (threadIdx.x == 0) {
    a.workspace.arrived[row] = 0;
    unsigned long long failure = 0;
    const RowFlag::Value flag =
        finish_row<kPlain>(a, row, shared.sums.warp[0], &a.workspace.coefficients[row], &failure);
    if (flag == RowFlag::invalid) atomicMax(&a.workspace.control->failure, failure);
    store_release(&a.workspace.flags[row], flag);
    shared.word = arrive(&a.workspace.control->rows_done) == a.rows - 1;
  }
  __syncthreads();
  if (shared.word && (a.passes & Pass::objective) && threadIdx.x < Metric::count) {
    a.metrics[threadIdx.x] =
        batch_metric(static_cast<int>(threadIdx.x), a.of.rules.options, a.denominator, a.outputs, a.rows);
  }
}

template <class E, bool kPlain>
__device__ __forceinline__ void run_moments(const LossArguments& a, const Step& step, unsigned long long next,
                                            KernelShared& shared) {
  constexpr int kSums = kSumsOf<kPlain>;
  const Workspace& w = a.workspace;
  typename E::Compute sums[kSums];
  moments_of_tile<E, kPlain>(a, make_cache_hints(), step.row, step.tile, static_cast<int>(threadIdx.x), sums);
  // A slot of the ring is free when the row that used it a turn ago is finished: that row's tickets are all smaller
  // than this one.
  if (threadIdx.x == 0 && step.index >= w.ring) wait_for_row(&w.flags[(step.index - w.ring) / a.order.moment_tiles]);
  const double total = block_total(sums, shared.sums);
  // Out of the registers, of which the objective of a row has none to spare.
  if (threadIdx.x == 0) shared.next = next;
  if (threadIdx.x < 32) {
    if (threadIdx.x < kSums) w.partials[step.index % w.ring * kSums + threadIdx.x] = total;
    __threadfence();
    __syncwarp();
    if (threadIdx.x == 0) shared.word = arrive(&w.arrived[step.row]) == a.order.moment_tiles - 1;
  }
  __syncthreads();
  if (shared.word) finish_row_as_block<kPlain>(a, step.row, shared);
}

template <class E, bool kPlain>
__device__ __forceinline__ void run_gradient(const LossArguments& a, const Step& step, KernelShared& shared) {
  RowCoefficients coefficients;
  if (a.order.moment_tiles == 0) {  // A and B are the caller's
    coefficients = row_coefficients(a, step.row, whole_sizes(a, step.row, sizes_of(a, RowSums())));
  } else {
    if (threadIdx.x == 0) shared.word = wait_for_row(&a.workspace.flags[step.row]);
    __syncthreads();
    if (shared.word == RowFlag::invalid) {
      if (a.poison) poison_tile<E>(a, make_cache_hints(), step.row, step.tile, static_cast<int>(threadIdx.x));
      return;
    }
    coefficients = a.workspace.coefficients[step.row];
  }
  gradient_of_tile<E, kPlain>(a, make_cache_hints(), step.row, step.tile, static_cast<int>(threadIdx.x), coefficients);
}

// Counters back to zero, by the last block to leave.
__device__ __forceinline__ void reset(const LossArguments& a) {
  for (int64_t row = threadIdx.x; row < a.rows; row += kThreads) a.workspace.flags[row] = RowFlag::pending;
  if (threadIdx.x == 0) {
    Control* control = a.workspace.control;
    *a.failure = control->failure;
    control->ticket = 0;
    control->failure = 0;
    control->blocks_left = 0;
    control->rows_done = 0;
  }
}

template <class E, bool kPlain>
__global__ void __launch_bounds__(kThreads, min_blocks(kPlain ? Variant::plain : E::kGeneral))
    evaluate_kernel(const __grid_constant__ LossArguments a) {
  __shared__ KernelShared shared;
  const unsigned long long tickets = static_cast<unsigned long long>(a.order.tickets());
  if (threadIdx.x == 0) shared.next = atomicAdd(&a.workspace.control->ticket, 1ull);
  for (;;) {
    if (threadIdx.x == 0) shared.ticket = shared.next;
    __syncthreads();
    const unsigned long long ticket = shared.ticket;
    if (ticket >= tickets) break;
    // Drawn before the work, so that its latency passes behind it. A block then holds two tickets, the second behind
    // the first; since waiting only ever goes from a ticket to smaller ones, that closes no circle.
    unsigned long long next = 0;
    if (threadIdx.x == 0) next = atomicAdd(&a.workspace.control->ticket, 1ull);
    const Step step = a.order.at(static_cast<int64_t>(ticket));
    if (step.gradient) {
      run_gradient<E, kPlain>(a, step, shared);
      if (threadIdx.x == 0) shared.next = next;
    } else {
      run_moments<E, kPlain>(a, step, next, shared);
    }
    __syncthreads();  // shared memory is free again
  }
  if (threadIdx.x == 0) shared.word = arrive(&a.workspace.control->blocks_left) == gridDim.x - 1;
  __syncthreads();
  if (shared.word) reset(a);
}

}  // namespace sdpo::cuda
