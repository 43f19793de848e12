// What the fused kernel is given: the problem in device memory, the order of its tiles, and its workspace. Plain data, no CUDA headers.
#pragma once

#include <cstdint>

#include "../problem.h"
#include "order.h"

namespace sdpo::cuda {

// Sums over elements, in the order in which tiles hand them on. The last three exist in the general kernel only.
struct Sum {
  enum Index : int { error_c, delta_c, drift_c, error_r, delta_r, drift_r, cross, weights, lowest_weight, count };
};
constexpr int kPlainSums = Sum::cross;

// What the gradient of a row needs from its moments: 2/D and the gradient scale are inside.
struct RowCoefficients {
  double a_chosen, b_chosen, a_rejected, b_rejected;
};

// A row's flag in the workspace.
struct RowFlag {
  enum Value : uint32_t { pending, ready, invalid };  // invalid: the row failed and gets no gradient
};

// Why a row failed, packed with the row so that one atomic maximum keeps the lowest row: kFailureBase - (2 * row + kind). Zero: none.
struct RowFailure {
  enum Kind : uint64_t { element_weights, non_finite };
};
constexpr uint64_t kFailureBase = ~uint64_t{0};

// Counters of a launch. All are zero between launches: the last block to leave resets them, so a call needs no memset.
struct Control {
  unsigned long long ticket;
  unsigned long long failure;  // as in RowFailure
  unsigned int blocks_left;    // blocks that are done
  unsigned int rows_done;
};

struct Workspace {
  Control* control;
  uint32_t* arrived;              // [rows] moments tiles that are in; zero between launches
  uint32_t* flags;                // [rows] RowFlag; zero between launches
  RowCoefficients* coefficients;  // [rows]
  double* partials;               // [ring][sums]
  int64_t ring;
};

struct LossArguments {
  Branch chosen, rejected;
  TensorView element_weights;
  int64_t rows, size;
  int64_t tile_elements;
  int packs;  // per thread and tile
  int passes;
  bool wants_sums;     // moments, or the sum of element weights
  bool wants_drift;    // the gradient may read the reference again
  bool poison;         // nobody looks at the failure before the gradient is used: a failed row's gradient is NaN
  TileOrder order;
  Workspace workspace;
  const double* row_inputs;
  double* row_outputs;
  double* metrics;
  unsigned long long* failure;  // written when the launch ends: RowFailure of the lowest bad row, or 0
  ObjectiveOptions options;
  NonFinite non_finite;
  double denominator, gradient_scale;
};

}  // namespace sdpo::cuda
