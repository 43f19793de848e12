// Sums over the elements of a row, with element weights e or all one.
#pragma once

namespace sdpo {

struct BranchSums {
  double error = 0;  // e d^2
  double delta = 0;  // e h (2d - h)
  double drift = 0;  // e h^2
};

struct RowSums {
  BranchSums chosen, rejected;
  double cross = 0;             // e d_c d_r
  double weights = 0;           // e
  double rejected_weights = 0;  // e of rejected, where that branch has its own
  double lowest_weight = 0;     // negative: an element weight below zero
};

}  // namespace sdpo
