// The metrics of a batch, formed by one block: its threads read the outputs of some rows at a time, then one thread for
// each metric adds them up in row order, as on the CPU.
#pragma once

#include "arguments.h"
#include "policy.h"

namespace sdpo::cuda {

struct MetricTerms {
  double v[kMetricRows][Metric::count];
};

// A barrier has to lie between this and what wrote the outputs, and behind it before `terms` is used again.
__device__ __forceinline__ void write_metrics_as_block(const LossArguments& a, MetricTerms& terms) {
  static_assert(kThreads >= Metric::count, "a thread for each metric");
  constexpr int kEach = (kMetricRows * Metric::count + kThreads - 1) / kThreads;
  const int thread = static_cast<int>(threadIdx.x);
  const bool adds = thread < Metric::count;
  MetricSum sum(adds ? thread : 0, a.of.rules.options);
#pragma unroll 1
  for (int64_t first = 0; first < a.rows; first += kMetricRows) {
    const int rows = static_cast<int>(a.rows - first < kMetricRows ? a.rows - first : kMetricRows);
    double values[kEach];  // all on their way before the first is used
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int i = thread + k * kThreads;
      if (i < rows * Metric::count)
        values[k] = metric_of_row(i % Metric::count, a.outputs, a.rows, first + i / Metric::count);
    }
#pragma unroll
    for (int k = 0; k < kEach; ++k) {
      const int i = thread + k * kThreads;
      if (i < rows * Metric::count) terms.v[i / Metric::count][i % Metric::count] = values[k];
    }
    __syncthreads();
    for (int row = 0; adds && row < rows; ++row) sum.add(terms.v[row][thread]);
    if (first + kMetricRows < a.rows) __syncthreads();
  }
  if (adds) a.metrics[thread] = sum.value(a.denominator);
}

}  // namespace sdpo::cuda
