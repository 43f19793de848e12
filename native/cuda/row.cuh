// How a row ends in a kernel, for host and device compilers: its sums, what it leaves to its gradient, and its failure.
#pragma once

#include "arguments.h"

namespace sdpo::cuda {

// `sums` has Sum::count entries.
SDPO_HD inline RowSums row_sums(const double* sums) {
  RowSums out;
  out.chosen = {sums[Sum::error_c], sums[Sum::delta_c], sums[Sum::drift_c]};
  out.rejected = {sums[Sum::error_r], sums[Sum::delta_r], sums[Sum::drift_r]};
  out.cross = sums[Sum::cross];
  out.weights = sums[Sum::weights];
  out.rejected_weights = sums[Sum::weights_r];
  out.lowest_weight = sums[Sum::lowest_weight];
  return out;
}

// Writes the outputs of a row. Returns RowFlag::ready with the coefficients, or RowFlag::invalid with the failure's
// number (arguments.h) where the call has to fail.
template <bool kPlain>
SDPO_HD inline RowFlag::Value finish_row(const LossArguments& a, int64_t row, const double* sums,
                                         RowCoefficients* coefficients, unsigned long long* failure) {
  const RowEnd end = sdpo::finish_row<kPlain>(a, row, row_sums(sums), coefficients);
  if (end == RowEnd::done) return RowFlag::ready;
  const RowFailure::Kind kind = end == RowEnd::non_finite ? RowFailure::non_finite : RowFailure::element_weights;
  *failure = kFailureBase - (2 * static_cast<uint64_t>(row) + kind);
  // A gradient pass that comes later finds NaN as the fused one does.
  if (end == RowEnd::non_finite && a.poison && (a.passes & Pass::objective)) {
    a.outputs[RowOutput::aChosen * a.rows + row] = a.outputs[RowOutput::aRejected * a.rows + row] = NAN;
  }
  return RowFlag::invalid;
}

}  // namespace sdpo::cuda
