// Checks the launch policy on every architecture, and the ticket order by simulation.
#include "../../../native/cuda/policy.h"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <random>
#include <vector>

#include "../../../native/cuda/order.h"
#include "../../../native/cuda/reduce.cuh"
#include "expect.h"

using namespace sdpo;
using namespace sdpo::cuda;

namespace {

// Static shared memory of the fused kernel: the sums of the warps, the terms of the metrics, two tickets and a word.
constexpr int kShared = static_cast<int>(sizeof(BlockSums) + kMetricRows * Metric::count * sizeof(double)) + 24;

void check_architectures() {
  for (const Architecture& a : kArchitectures) {
    const double needed = a.bandwidth * a.latency / a.multiprocessors;
    for (const Variant variant : {Variant::plain, Variant::general, Variant::mixed}) {
      const int blocks = resident_blocks(a, kThreads, register_cap(variant), kShared);
      EXPECT(blocks >= min_blocks(variant), "sm_%d: %d blocks, launch bounds say %d", a.capability, blocks,
             min_blocks(variant));
      EXPECT(variant == Variant::mixed || bytes_in_flight(blocks) >= needed, "sm_%d: %d bytes in flight, %.0f needed",
             a.capability, bytes_in_flight(blocks), needed);
      EXPECT(blocks * (kShared + 1024) <= a.shared_per_multiprocessor, "sm_%d", a.capability);
    }
    EXPECT(kThreads * min_blocks(Variant::plain) <= a.threads_per_multiprocessor, "sm_%d", a.capability);
    const int elementwise =
        resident_blocks(a, kElementwiseThreads, 65536 / (kElementwiseThreads * kElementwiseMinBlocks), 0);
    EXPECT(elementwise >= std::min(kElementwiseMinBlocks, a.threads_per_multiprocessor / kElementwiseThreads), "sm_%d",
           a.capability);
  }
  EXPECT(kThreads % 32 == 0 && kThreads >= 32, "whole warps");
  EXPECT(kThreads >= static_cast<int>(Metric::count), "one thread per metric");
  EXPECT(static_cast<int>(Sum::count) <= 32, "the first warp writes a tile's sums");
}

void check_tiling() {
  for (int type = 0; type < kDTypeCount; ++type) {
    const int pack = pack_elements(static_cast<DType>(type));
    EXPECT(pack * static_cast<int>(kDTypeSizes[type]) == kAccessBytes, "%s", kDTypeNames[type]);
    int last = 0;
    for (int64_t size = 0; size <= int64_t{1} << 33; size = size * 5 / 4 + 1) {
      const Tiling t = tiling(size, pack);
      EXPECT(t.elements == int64_t{kThreads} * pack * t.packs, "%lld", static_cast<long long>(size));
      EXPECT(t.count * t.elements >= size && (t.count == 1 || (t.count - 1) * t.elements < size), "%lld",
             static_cast<long long>(size));
      EXPECT(t.packs >= last && t.packs <= kMaxPacksPerThread, "longer rows, longer tiles: %lld",
             static_cast<long long>(size));
      EXPECT(t.packs == 1 || t.count >= kLongRowTiles, "%lld", static_cast<long long>(size));
      last = t.packs;
    }
    EXPECT(last == kMaxPacksPerThread, "%s", kDTypeNames[type]);
  }
  // The shapes of the models: a row of SDXL spreads widely, a long row takes part of a megabyte of workspace at most.
  EXPECT(tiling(4 * 128 * 128, 8).count >= kLongRowTiles, "SDXL in bfloat16");
  for (const int64_t size : {int64_t{13} * 16 * 60 * 90, int64_t{16} * 21 * 60 * 104}) {
    for (const int pack : {4, 8}) {
      for (const Architecture& a : kArchitectures) {
        const int64_t blocks = int64_t{a.multiprocessors} * resident_blocks(a, kThreads, 80, kShared);
        const Tiling t = tiling(size, pack);
        const int64_t ring = ring_tiles(t.count, blocks, 64 * t.count);
        const int64_t bytes = ring * kPlainSums * static_cast<int64_t>(sizeof(double)) + 64 * (32 + 8);
        EXPECT(bytes < 1 << 20, "sm_%d: %lld bytes of workspace", a.capability, static_cast<long long>(bytes));
      }
    }
  }
}

struct Shape {
  int64_t rows, moments, gradients, blocks;
};

// Every tile exactly once; in order within its phase; and nobody waits for a later ticket: a gradient for the moments
// of its row, a moments tile for the row whose slot of the ring it takes.
void check_order(const Shape& s) {
  const TileOrder order = TileOrder{s.rows, s.moments, s.gradients};
  const int64_t all = s.rows * s.moments;
  EXPECT(order.tickets() == s.rows * (s.moments + s.gradients), "tickets");
  const int64_t ring = s.moments == 0 ? 0 : ring_tiles(s.moments, s.blocks, all);
  int64_t moments = 0, gradients = 0;
  for (int64_t ticket = 0; ticket < order.tickets(); ++ticket) {
    const Step step = order.at(ticket);
    int64_t& seen = step.gradient ? gradients : moments;
    const int64_t tiles = step.gradient ? s.gradients : s.moments;
    EXPECT(step.index == seen && step.row == seen / tiles && step.tile == seen % tiles,
           "rows %lld, moments %lld, ticket %lld", static_cast<long long>(s.rows), static_cast<long long>(s.moments),
           static_cast<long long>(ticket));
    if (step.gradient) {
      EXPECT(moments >= (step.row + 1) * s.moments, "a gradient before its row's moments: ticket %lld",
             static_cast<long long>(ticket));
    } else if (step.index >= ring) {
      EXPECT(((step.index - ring) / s.moments + 1) * s.moments <= step.index, "a ring shorter than a row: ticket %lld",
             static_cast<long long>(ticket));
    }
    ++seen;
  }
  EXPECT(moments == all && gradients == s.rows * s.gradients, "every tile once");
}

// Blocks that run in any order, only some of them at a time, each holding the ticket it works on and the next: all work
// gets done.
void check_progress(const Shape& s, int resident, unsigned seed) {
  const TileOrder order = TileOrder{s.rows, s.moments, s.gradients};
  const int64_t ring = s.moments == 0 ? 0 : ring_tiles(s.moments, s.blocks, s.rows * s.moments);
  std::vector<int64_t> arrived(static_cast<size_t>(s.rows));
  const auto finished = [&](int64_t row) { return arrived[static_cast<size_t>(row)] == s.moments; };
  int64_t next = 0, done = 0;
  struct Block {
    int64_t current, prefetched;
  };
  std::vector<Block> running;
  int64_t waiting_to_run = s.blocks;
  std::mt19937 random(seed);
  while (done < order.tickets()) {
    while (waiting_to_run > 0 && static_cast<int>(running.size()) < resident) {
      running.push_back({next, next + 1});
      next += 2;
      --waiting_to_run;
    }
    std::shuffle(running.begin(), running.end(), random);
    bool moved = false;
    for (size_t b = 0; b < running.size(); ++b) {
      Block& block = running[b];
      if (block.current < order.tickets()) {
        const Step step = order.at(block.current);
        if (step.gradient ? s.moments > 0 && !finished(step.row)
                          : step.index >= ring && !finished((step.index - ring) / s.moments))
          continue;
        if (!step.gradient) ++arrived[static_cast<size_t>(step.row)];
        ++done;
        block.current = block.prefetched;
        block.prefetched = next++;
      } else {
        running.erase(running.begin() + static_cast<std::ptrdiff_t>(b));  // this block leaves, another may run
      }
      moved = true;
      break;
    }
    EXPECT(moved, "deadlock: %lld of %lld tickets done", static_cast<long long>(done),
           static_cast<long long>(order.tickets()));
    if (!moved) return;
  }
}

}  // namespace

int main() {
  check_architectures();
  check_tiling();
  for (const int64_t rows : {1, 2, 3, 8, 65}) {
    for (const int64_t tiles : {1, 2, 5, 64, 275}) {
      for (const int64_t blocks : {1, 2, 7, 660}) {
        check_order({rows, tiles, tiles, blocks});
        check_order({rows, tiles, 0, blocks});
        check_order({rows, 0, tiles, blocks});
        check_order({rows, 1, 0, blocks});
        check_order({rows, 1, tiles, blocks});
        if (rows * tiles > 400) continue;
        for (const int resident : {1, 2, 5}) {
          check_progress({rows, tiles, tiles, blocks}, resident, static_cast<unsigned>(rows * 1000 + tiles));
          check_progress({rows, 1, tiles, blocks}, resident, 1);
        }
      }
    }
  }
  return report_checks();
}
