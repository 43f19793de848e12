// The kernels on the host: the same tiles, sums, rows and order as kernel.cuh, ticket by ticket and thread by thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "../../../native/cuda/poison.cuh"
#include "../../../native/cuda/policy.h"
#include "../../../native/cuda/reduce.cuh"
#include "../../../native/cuda/row.cuh"
#include "../../../native/cuda/tile.cuh"
#include "expect.h"

namespace sdpo::cuda {

template <class E, bool kPlain>
class Emulator {
 public:
  static constexpr int kSums = kSumsOf<kPlain>;

  // Returns the failure number the kernel would leave behind (arguments.h). `poison`: as in LossArguments.
  static unsigned long long run(const Problem& p, int64_t blocks, bool poison = false) {
    const Parts parts = parts_of(p);
    unsigned long long failure = 0;
    for (int k = 0; k < parts.count; ++k) {
      Problem part = p;
      part.passes = parts.passes[k];
      LossArguments a = make_arguments(part, E::kPack);
      a.poison = poison;
      Emulator emulator(a, ring_of(a, grid_blocks(blocks, a.order.tickets())));
      failure = emulator.all();
    }
    return failure;
  }

 private:
  using S = typename E::Compute;

  Emulator(const LossArguments& a, int64_t ring)
      : a_(a),
        arrived_(static_cast<size_t>(a.rows)),
        words_(static_cast<size_t>(a.rows) * RowWord::count),
        partials_(static_cast<size_t>(ring) * kSums) {
    a_.workspace = {nullptr, arrived_.data(), words_.data(), partials_.data(), ring, nullptr};
  }

  unsigned long long all() {
    for (int64_t ticket = 0; ticket < a_.order.tickets(); ++ticket) {
      const Step step = a_.order.at(ticket);
      if (step.gradient) {
        gradient(step);
      } else {
        moments(step);
      }
    }
    EXPECT(a_.order.moment_tiles == 0 || rows_done_ == a_.rows, "every row is finished");
    return failure_;
  }

  void moments(const Step& step) {
    const Workspace& w = a_.workspace;
    S sums[kThreads][kSums];
    for (int thread = 0; thread < kThreads; ++thread) {
      moments_of_tile<E, kPlain>(a_, make_cache_hints(), step.row, step.tile, thread, sums[thread]);
    }
    if (step.index >= w.ring)
      EXPECT(*words((step.index - w.ring) / a_.order.moment_tiles) != RowWord::pending, "a slot in use");
    host_block_total<kSums>(sums, w.partials + step.index % w.ring * kSums);
    if (++w.arrived[step.row] == a_.order.moment_tiles) finish(step.row);
  }

  void finish(int64_t row) {
    double sums[kThreads][kSums], totals[Sum::count] = {};
    for (int thread = 0; thread < kThreads; ++thread) thread_total_of_row(a_, row, thread, sums[thread]);
    host_block_total<kSums>(sums, totals);
    int told = 0;
    const unsigned long long failure =
        finish_row<kPlain>(a_, row, totals, [&](const uint64_t (&values)[RowWord::count]) {
          std::copy_n(values, RowWord::count, words(row));
          ++told;
        });
    EXPECT(told == 1, "a row tells its coefficients once");
    for (int k = 0; k < RowWord::count; ++k) EXPECT(words(row)[k] != RowWord::pending, "a word that says it is absent");
    failure_ = failure > failure_ ? failure : failure_;
    if (++rows_done_ == a_.rows && (a_.passes & Pass::objective)) {
      for (int k = 0; k < Metric::count; ++k) {
        a_.metrics[k] = batch_metric(k, a_.of.rules.options, a_.denominator, a_.outputs, a_.rows);
      }
    }
  }

  void gradient(const Step& step) {
    RowCoefficients coefficients;
    if (a_.order.moment_tiles == 0) {
      coefficients = row_coefficients(a_, step.row, sizes_of(a_, RowSums()));
    } else {
      uint64_t told[RowWord::count];
      std::copy_n(words(step.row), RowWord::count, told);
      EXPECT(told[0] != RowWord::pending, "a gradient before its row");
      if (!coefficients_of(told, &coefficients)) {
        for (int thread = 0; a_.poison && thread < kThreads; ++thread)
          poison_tile<E>(a_, make_cache_hints(), step.row, step.tile, thread);
        return;
      }
    }
    for (int thread = 0; thread < kThreads; ++thread) {
      gradient_of_tile<E, kPlain>(a_, make_cache_hints(), step.row, step.tile, thread, coefficients);
    }
  }

  uint64_t* words(int64_t row) { return a_.workspace.coefficients + RowWord::count * row; }

  LossArguments a_;
  std::vector<uint32_t> arrived_;
  std::vector<uint64_t> words_;
  std::vector<double> partials_;
  int64_t rows_done_ = 0;
  unsigned long long failure_ = 0;
};

}  // namespace sdpo::cuda
