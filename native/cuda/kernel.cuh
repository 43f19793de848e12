// The fused kernel: moments, objective and gradient of a whole batch in one launch of persistent blocks.
//
// Blocks draw tickets in the order of order.h. A moments tile leaves its sums in the workspace; the block that brings a
// row's last tile adds them up in tile order, runs the objective and tells the row's coefficients; a gradient tile
// waits for those. The last block to leave forms the metrics and puts the counters back to zero for the next launch.
#pragma once

#include <cuda_runtime.h>

#include "exchange.cuh"
#include "kernels.h"
#include "metrics.cuh"
#include "poison.cuh"
#include "reduce.cuh"
#include "row.cuh"
#include "tile.cuh"

namespace sdpo::cuda {

struct KernelShared {
  BlockSums sums;
  MetricTerms terms;
  unsigned long long ticket;
  unsigned long long next;  // thread 0's alone
  uint32_t last;            // whether the tile at hand is that of its row, or this block that of the launch
};

// ---- Phases

// The block that brought the last tile of a row finishes the row.
template <bool kPlain>
__device__ __forceinline__ void finish_row_as_block(const LossArguments& a, int64_t row, KernelShared& shared) {
  constexpr int kSums = kSumsOf<kPlain>;
  double sums[kSums];
  thread_total_of_row(a, row, static_cast<int>(threadIdx.x), sums);
  const double total = block_total(sums, shared.sums);
  if (threadIdx.x < 32) {
    __syncwarp();
    if (threadIdx.x < Sum::count) shared.sums.warp[0][threadIdx.x] = total;
    __syncwarp();
  }
  if (threadIdx.x == 0) {
    a.workspace.arrived[row] = 0;
    uint64_t* const words = a.workspace.coefficients + RowWord::count * row;
    const unsigned long long failure = finish_row<kPlain>(
        a, row, shared.sums.warp[0], [&](const uint64_t (&told)[RowWord::count]) { tell(words, told); });
    if (failure != 0) atomicMax(&a.workspace.control->failure, failure);
  }
}

// `draw` is called when the tile's data is in, and what it gives is kept out of the registers, of which the objective
// has none to spare.
template <class E, bool kPlain, class Draw>
__device__ __forceinline__ void run_moments(const LossArguments& a, const Step& step, KernelShared& shared,
                                            const Draw& draw) {
  constexpr int kSums = kSumsOf<kPlain>;
  const Workspace& w = a.workspace;
  typename E::Compute sums[kSums];
  moments_of_tile<E, kPlain>(a, make_cache_hints(), step.row, step.tile, static_cast<int>(threadIdx.x), sums);
  const unsigned long long next = draw();
  const double total = block_total(sums, shared.sums);
  if (threadIdx.x < 32) {
    // A slot of the ring is free when the row that used it a turn ago is finished: that row's tickets are all smaller
    // than this one.
    if (step.index >= w.ring) {
      if (threadIdx.x == 0)
        wait_for_word(w.coefficients + RowWord::count * ((step.index - w.ring) / a.order.moment_tiles));
      __syncwarp();
    }
    if (threadIdx.x < kSums) w.partials[step.index % w.ring * kSums + threadIdx.x] = total;
    __syncwarp();
    if (threadIdx.x == 0) {
      shared.last = arrive(&w.arrived[step.row]) == a.order.moment_tiles - 1;
      shared.next = next;
    }
  }
  __syncthreads();
  if (shared.last) finish_row_as_block<kPlain>(a, step.row, shared);
}

// Every warp waits for itself, its first four lanes for a word each.
__device__ __forceinline__ bool wait_for_coefficients(const LossArguments& a, int64_t row, RowCoefficients* out) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  uint64_t word = 0;
  if (lane < RowWord::count) word = wait_for_word(a.workspace.coefficients + RowWord::count * row + lane);
  __syncwarp();
  uint64_t words[RowWord::count];
#pragma unroll
  for (int k = 0; k < RowWord::count; ++k) words[k] = __shfl_sync(0xffffffffu, word, k);
  return coefficients_of(words, out);
}

template <class E, bool kPlain>
__device__ __forceinline__ void run_gradient(const LossArguments& a, const Step& step) {
  const int thread = static_cast<int>(threadIdx.x);
  RowCoefficients coefficients;
  if (a.order.moment_tiles == 0) {  // A and B are the caller's
    coefficients = row_coefficients(a, step.row, sizes_of(a, RowSums()));
  } else if (!wait_for_coefficients(a, step.row, &coefficients)) {
    if (a.poison) poison_tile<E>(a, make_cache_hints(), step.row, step.tile, thread);
    return;
  }
  gradient_of_tile<E, kPlain>(a, make_cache_hints(), step.row, step.tile, thread, coefficients);
}

// Counters back to zero, by the last block to leave.
__device__ __forceinline__ void reset(const LossArguments& a) {
  for (int64_t i = threadIdx.x; i < RowWord::count * a.rows; i += kThreads)
    a.workspace.coefficients[i] = RowWord::pending;
  if (threadIdx.x == 0) {
    Control* control = a.workspace.control;
    *a.failure = control->failure;
    control->ticket = 0;
    control->failure = 0;
    control->blocks_left = 0;
  }
}

template <class E, bool kPlain>
__global__ void __launch_bounds__(kThreads, min_blocks(kPlain ? Variant::plain : E::kGeneral))
    evaluate_kernel(const __grid_constant__ LossArguments a) {
  __shared__ KernelShared shared;
  Control* const control = a.workspace.control;
  const unsigned long long tickets = static_cast<unsigned long long>(a.order.tickets());
  // Drawn when the data of the tile before is in, so that its latency passes behind the end of that tile. A block then
  // holds two tickets, the second behind the first; since waiting only ever goes from a ticket to smaller ones, that
  // closes no circle. (Drawn earlier they leave less to blocks that are free sooner.)
  const auto draw = [&] { return threadIdx.x == 0 ? atomicAdd(&control->ticket, 1ull) : 0; };
  if (threadIdx.x == 0) shared.next = draw();
  for (;;) {
    if (threadIdx.x == 0) shared.ticket = shared.next;
    __syncthreads();
    const unsigned long long ticket = shared.ticket;
    if (ticket >= tickets) break;
    const Step step = a.order.at(static_cast<int64_t>(ticket));
    if (step.gradient) {
      run_gradient<E, kPlain>(a, step);
      if (threadIdx.x == 0) shared.next = draw();
    } else {
      run_moments<E, kPlain>(a, step, shared, draw);
    }
    __syncthreads();  // shared memory is free again
  }
  if (threadIdx.x == 0) shared.last = arrive(&control->blocks_left) == gridDim.x - 1;
  __syncthreads();
  if (!shared.last) return;
  if (a.passes & Pass::objective) write_metrics_as_block(a, shared.terms);
  reset(a);
}

}  // namespace sdpo::cuda
