// What the fused kernel is given: the problem in device memory, the order of its tiles, and its workspace. Plain data,
// no CUDA headers.
#pragma once

#include <cstdint>

#include "../core/metrics.h"
#include "../core/row.h"
#include "order.h"
#include "policy.h"

namespace sdpo::cuda {

// Sums over elements, in the order in which tiles hand them on. Those from `cross` on exist in the general kernel only.
struct Sum {
  enum Index : int {
    error_c,
    delta_c,
    drift_c,
    error_r,
    delta_r,
    drift_r,
    cross,
    weights,
    weights_r,  // of rejected, where it has its own
    lowest_weight,
    count
  };
};
constexpr int kPlainSums = Sum::cross;

// How many of them a kernel leaves of a tile: the one place that says so, for the kernels and for who makes room.
template <bool kPlain>
constexpr int kSumsOf = kPlain ? kPlainSums : static_cast<int>(Sum::count);

// What a row tells its gradient in the workspace: its coefficients, a word for each. A word says by itself that it is
// there, so that one look finds out both: it is the number's bits, changed such that zero stands for a number that no
// multiplication returns, a signalling NaN.
struct RowWord {
  enum Index : int { a_chosen, b_chosen, a_rejected, b_rejected, count };
  static constexpr uint64_t pending = 0;
  static constexpr uint64_t invalid = 1;  // the row failed and gets no gradient
  static constexpr uint64_t nothing = 0x7ff4000000000000;
};

// Why a row failed, packed with the row so that one atomic maximum keeps the lowest row: kFailureBase - (2 * row +
// kind). Zero: none.
struct RowFailure {
  enum Kind : uint64_t { element_weights, non_finite };
};
constexpr uint64_t kFailureBase = ~uint64_t{0};

// Counters of a launch. All are zero between launches: the last block to leave resets them, so a call needs no memset.
struct Control {
  unsigned long long ticket;
  unsigned long long failure;  // as in RowFailure
  unsigned int blocks_left;    // blocks that are done
};

struct Workspace {
  Control* control;
  uint32_t* arrived;       // [rows] moments tiles that are in; zero between launches
  uint64_t* coefficients;  // [rows][RowWord::count]; zero between launches
  double* partials;        // [ring][sums]
  int64_t ring;
  double* lists;  // [RowInput::count][rows] numbers per row that came from the host
};

// The rows as every backend sees them, with all pointers in device memory, and what a launch adds.
struct LossArguments : RowTask {
  Branch chosen, rejected;
  TensorView element_weights, rejected_element_weights;
  int64_t tile_elements;
  int packs;         // per thread and tile
  bool wants_drift;  // the gradient may read the reference again
  bool poison;       // nobody looks at the failure before the gradient is used: a failed row's gradient is NaN
  TileOrder order;
  Workspace workspace;
  double* metrics;
  unsigned long long* failure;  // written when the launch ends: RowFailure of the lowest bad row, or 0
  double denominator;
};

// The launches of a call, by their passes: two where the objective of a row needs the moments of every row.
struct Parts {
  int passes[2];
  int count;
};

inline Parts parts_of(const Problem& p) {
  constexpr int kBoth = Pass::moments | Pass::objective;
  if ((p.passes & kBoth) != kBoth || !needs_all_moments(p.options)) return {{p.passes, 0}, 1};
  constexpr int kFirst = Pass::moments | Pass::cross;
  return {{kFirst, p.passes & ~kFirst}, 2};
}

// Everything about a call but its workspace, and where the launcher moves row scalars. `pack`: elements that a thread
// reads at a time.
inline LossArguments make_arguments(const Problem& p, int pack) {
  const auto wants = [&](int pass) { return (p.passes & pass) != 0; };
  const Tiling tiles = tiling(p.size, pack);
  LossArguments a{};
  static_cast<RowTask&>(a) = make_row_task(p);
  a.chosen = p.chosen;
  a.rejected = p.rejected;
  a.element_weights = p.element_weights;
  a.rejected_element_weights = p.rejected_element_weights;
  a.tile_elements = tiles.elements;
  a.packs = tiles.packs;
  const bool gradients =
      wants(Pass::gradients) && (p.chosen.gradient.data != nullptr || p.rejected.gradient.data != nullptr);
  // Whether a B other than 0 can come out: a question of cache hints only.
  a.wants_drift = gradients && (has_drift_gradient(p.options) || !wants(Pass::objective));
  // Without sums one empty tile per row runs the objective; the gradient alone needs no such tile.
  const int64_t moment_tiles = a.wants_sums ? tiles.count : wants(Pass::objective) ? 1 : 0;
  a.order = {p.rows, moment_tiles, gradients ? tiles.count : 0};
  a.metrics = p.metrics;
  a.denominator = p.denominator;
  return a;
}

// Partial sums that the workspace of a launch of `grid` blocks has room for.
inline int64_t ring_of(const LossArguments& a, int64_t grid) {
  return a.order.moment_tiles == 0 ? 0 : ring_tiles(a.order.moment_tiles, grid, a.rows * a.order.moment_tiles);
}

}  // namespace sdpo::cuda
