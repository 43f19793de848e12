// The fused kernel on the host: the same tiles, sums, rows and order as kernel.cuh, ticket by ticket and thread by thread.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "../../native/cuda/policy.h"
#include "../../native/cuda/reduce.cuh"
#include "../../native/cuda/row.cuh"
#include "../../native/cuda/tile.cuh"
#include "expect.h"

namespace sdpo::cuda {

template <class E, bool kPlain>
class Emulator {
 public:
  static constexpr int kSums = kPlain ? kPlainSums : Sum::count;

  // Returns the failure number the kernel would leave behind (arguments.h).
  static unsigned long long run(const Problem& p, int64_t blocks) {
    const auto wants = [&](int pass) { return (p.passes & pass) != 0; };
    const Tiling tiles = tiling(p.size, E::kPack);
    LossArguments a{};
    a.chosen = p.chosen;
    a.rejected = p.rejected;
    a.element_weights = p.element_weights;
    a.rows = p.rows;
    a.size = p.size;
    a.tile_elements = tiles.elements;
    a.packs = tiles.packs;
    a.passes = p.passes;
    a.wants_sums = wants(Pass::moments) || p.element_weights.data != nullptr;
    const int64_t moment_tiles = a.wants_sums ? tiles.count : wants(Pass::objective) ? 1 : 0;
    a.order = make_order(p.rows, moment_tiles, wants(Pass::gradients) ? tiles.count : 0, lead_tiles(blocks));
    a.row_inputs = p.row_inputs;
    a.row_outputs = p.row_outputs;
    a.metrics = p.metrics;
    a.options = p.options;
    a.non_finite = p.non_finite;
    a.denominator = p.denominator;
    a.gradient_scale = p.gradient_scale;
    Emulator emulator(a, moment_tiles == 0 ? 0 : ring_tiles(moment_tiles, blocks, p.rows * moment_tiles));
    return emulator.all();
  }

 private:
  using S = typename E::Compute;

  Emulator(const LossArguments& a, int64_t ring)
      : a_(a),
        arrived_(static_cast<size_t>(a.rows)),
        flags_(static_cast<size_t>(a.rows)),
        coefficients_(static_cast<size_t>(a.rows)),
        partials_(static_cast<size_t>(ring) * kSums) {
    a_.workspace = {nullptr, arrived_.data(), flags_.data(), coefficients_.data(), partials_.data(), ring};
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
    if (step.index >= w.ring) EXPECT(w.flags[(step.index - w.ring) / a_.order.moment_tiles] != RowFlag::pending, "a slot in use");
    host_block_total<kSums>(sums, w.partials + step.index % w.ring * kSums);
    if (++w.arrived[step.row] == a_.order.moment_tiles) finish(step.row);
  }

  void finish(int64_t row) {
    double sums[kThreads][kSums], totals[Sum::count] = {};
    for (int thread = 0; thread < kThreads; ++thread) thread_total_of_row(a_, row, thread, sums[thread]);
    host_block_total<kSums>(sums, totals);
    unsigned long long failure = 0;
    a_.workspace.flags[row] = finish_row(a_, row, totals, &a_.workspace.coefficients[row], &failure);
    failure_ = failure > failure_ ? failure : failure_;
    if (++rows_done_ == a_.rows && (a_.passes & Pass::objective)) {
      for (int k = 0; k < Metric::count; ++k) {
        a_.metrics[k] = batch_metric(k, a_.options.objective, a_.denominator, a_.row_outputs, a_.rows);
      }
    }
  }

  void gradient(const Step& step) {
    RowCoefficients coefficients;
    if (a_.order.moment_tiles == 0) {
      coefficients = row_coefficients(a_, step.row, static_cast<double>(a_.size));
    } else {
      EXPECT(a_.workspace.flags[step.row] != RowFlag::pending, "a gradient before its row");
      if (a_.workspace.flags[step.row] == RowFlag::invalid) return;
      coefficients = a_.workspace.coefficients[step.row];
    }
    for (int thread = 0; thread < kThreads; ++thread) {
      gradient_of_tile<E, kPlain>(a_, make_cache_hints(), step.row, step.tile, thread, coefficients);
    }
  }

  LossArguments a_;
  std::vector<uint32_t> arrived_, flags_;
  std::vector<RowCoefficients> coefficients_;
  std::vector<double> partials_;
  int64_t rows_done_ = 0;
  unsigned long long failure_ = 0;
};

}  // namespace sdpo::cuda
