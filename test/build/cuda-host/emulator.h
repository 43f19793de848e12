// The kernels on the host: the same tiles, sums, rows and order as kernel.cuh, ticket by ticket and thread by thread,
// and as cluster.cuh.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <vector>

#include "../../../native/cuda/keep.cuh"
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
      LossArguments a = make_arguments(part, E::kPack, blocks, 0);
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
        flags_(static_cast<size_t>(a.rows)),
        coefficients_(static_cast<size_t>(a.rows)),
        partials_(static_cast<size_t>(ring) * kSums) {
    a_.workspace = {nullptr, arrived_.data(), flags_.data(), coefficients_.data(), partials_.data(), ring, nullptr};
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
      EXPECT(w.flags[(step.index - w.ring) / a_.order.moment_tiles] != RowFlag::pending, "a slot in use");
    host_block_total<kSums>(sums, w.partials + step.index % w.ring * kSums);
    if (++w.arrived[step.row] == a_.order.moment_tiles) finish(step.row);
  }

  void finish(int64_t row) {
    double sums[kThreads][kSums], totals[Sum::count] = {};
    for (int thread = 0; thread < kThreads; ++thread) thread_total_of_row(a_, row, thread, sums[thread]);
    host_block_total<kSums>(sums, totals);
    unsigned long long failure = 0;
    a_.workspace.flags[row] = finish_row<kPlain>(a_, row, totals, &a_.workspace.coefficients[row], &failure);
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
      coefficients = row_coefficients(a_, step.row, whole_sizes(a_, step.row, sizes_of(a_, RowSums())));
    } else {
      EXPECT(a_.workspace.flags[step.row] != RowFlag::pending, "a gradient before its row");
      if (a_.workspace.flags[step.row] == RowFlag::invalid) {
        for (int thread = 0; a_.poison && thread < kThreads; ++thread)
          poison_tile<E>(a_, make_cache_hints(), step.row, step.tile, thread);
        return;
      }
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

// The cluster kernel, row by row, block by block and thread by thread, with the shared memory of each block.
template <class E>
class ClusterEmulator {
 public:
  // As Emulator::run. The row has to fit.
  static unsigned long long run(const Problem& p, const ClusterPlan& plan, bool poison = false) {
    LossArguments a = make_arguments(p, E::kPack, 1, 0);
    a.poison = poison;
    ClusterEmulator emulator(a, plan);
    for (int64_t row = 0; row < p.rows; ++row) emulator.run_row(row);
    for (int k = 0; k < Metric::count; ++k)
      p.metrics[k] = batch_metric(k, p.options, p.denominator, p.row_outputs, p.rows);
    return emulator.failure_;
  }

  // Smaller than a device's, or the size of one.
  static ClusterPlan plan(int64_t size, int64_t shared) {
    return cluster_plan(size, E::kPack, static_cast<int>(sizeof(typename E::Compute)), kPlainSums, shared);
  }

 private:
  using S = typename E::Compute;

  ClusterEmulator(const LossArguments& a, const ClusterPlan& plan)
      : a_(a),
        plan_(plan),
        threads_(plan.groups * kThreads),
        memory_(static_cast<size_t>(plan.blocks * plan.kept_bytes) / sizeof(Chunk<S>)) {}

  // Calls use(tile of the row, slot of the block's threads, kept, thread of the tile) for every thread of a block and
  // each of its tiles.
  template <class Use>
  void for_tiles(int rank, const Use& use) {
    const int64_t tiles = a_.order.moment_tiles;
    const size_t room = static_cast<size_t>(plan_.kept_bytes) / sizeof(Chunk<S>);
    for (int t = 0; t < threads_; ++t) {
      const Kept<E> kept{memory_.data() + static_cast<size_t>(rank) * room, threads_, t};
      int slot = 0;
      for (int64_t j = t / kThreads; rank + j * plan_.blocks < tiles; j += plan_.groups, slot += a_.packs) {
        EXPECT(j < plan_.tiles && slot + a_.packs <= plan_.slots, "a tile that has no room");
        use(rank + j * plan_.blocks, slot, kept, t % kThreads);
      }
    }
  }

  void run_row(int64_t row) {
    // Sums of another row would show.
    for (auto& chunk : memory_) std::fill_n(chunk.v, Chunk<S>::kCount, std::numeric_limits<S>::quiet_NaN());
    const int64_t tiles = a_.order.moment_tiles;
    struct TileValues {
      S of[kThreads][kPlainSums];
    };
    std::vector<TileValues> values(static_cast<size_t>(tiles));
    std::vector<int> seen(static_cast<size_t>(tiles));
    for (int rank = 0; rank < plan_.blocks; ++rank) {
      for_tiles(rank, [&](int64_t tile, int slot, const Kept<E>& kept, int thread) {
        keep_moments_of_tile<E>(a_, make_cache_hints(), row, tile, thread, slot, kept,
                                values[static_cast<size_t>(tile)].of[thread]);
        ++seen[static_cast<size_t>(tile)];
      });
    }
    std::vector<double> partials(static_cast<size_t>(tiles) * kPlainSums);
    EXPECT(static_cast<int64_t>(partials.size() * sizeof(double)) <= plan_.tile_sums_bytes, "sums that have no room");
    for (int64_t tile = 0; tile < tiles; ++tile) {
      EXPECT(seen[static_cast<size_t>(tile)] == kThreads, "every tile once");
      host_block_total<kPlainSums>(values[static_cast<size_t>(tile)].of, partials.data() + tile * kPlainSums);
    }
    double sums[kThreads][kPlainSums], totals[Sum::count] = {};
    for (int thread = 0; thread < kThreads; ++thread)
      thread_total_of_tiles(partials.data(), 0, tiles, tiles, thread, sums[thread]);
    host_block_total<kPlainSums>(sums, totals);
    RowCoefficients coefficients{};
    unsigned long long failure = 0;
    const RowFlag::Value flag = finish_row<true>(a_, row, totals, &coefficients, &failure);
    failure_ = failure > failure_ ? failure : failure_;
    if (flag == RowFlag::invalid && !a_.poison) return;
    for (int rank = 0; rank < plan_.blocks; ++rank) {
      for_tiles(rank, [&](int64_t tile, int slot, const Kept<E>& kept, int thread) {
        if (flag == RowFlag::invalid) {
          poison_tile<E>(a_, make_cache_hints(), row, tile, thread);
        } else {
          kept_gradient_of_tile<E>(a_, make_cache_hints(), row, tile, thread, slot, kept, coefficients);
        }
      });
    }
  }

  const LossArguments a_;
  const ClusterPlan plan_;
  const int threads_;
  std::vector<Chunk<S>> memory_;  // what the blocks of a cluster keep
  unsigned long long failure_ = 0;
};

}  // namespace sdpo::cuda
