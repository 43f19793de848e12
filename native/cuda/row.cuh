// From the sums of a row to its moments, its objective and the coefficients of its gradient, for host and device
// compilers.
#pragma once

#include "../core/objectives.h"
#include "arguments.h"

namespace sdpo::cuda {

SDPO_HD inline BranchMoments branch_moments(const LossArguments& a, bool chosen, int64_t row, const double* sums,
                                            double size) {
  const Branch& branch = chosen ? a.chosen : a.rejected;
  const double* s = sums + (chosen ? Sum::error_c : Sum::error_r);
  BranchMoments out;
  out.m = s[0] / size;
  if (branch.reference.data != nullptr) {
    out.delta = s[1] / size;
    out.q = s[2] / size;
  } else {
    const int field = chosen ? RowInput::referenceErrorChosen : RowInput::referenceErrorRejected;
    out.delta = out.m - a.row_inputs[field * a.rows + row];
    out.q = NAN;
  }
  return out;
}

// The coefficients of the gradient pass of a row whose A and B are known.
SDPO_HD inline RowCoefficients row_coefficients(const LossArguments& a, int64_t row, double size) {
  const double scale = 2 / size;
  const double* out = a.row_outputs;
  return {scale * out[RowOutput::aChosen * a.rows + row], scale * out[RowOutput::bChosen * a.rows + row],
          scale * out[RowOutput::aRejected * a.rows + row], scale * out[RowOutput::bRejected * a.rows + row]};
}

// Writes the outputs of a row. `sums` has Sum::count entries. Returns RowFlag::ready with the coefficients, or
// RowFlag::invalid with the failure's number (arguments.h) where the call has to fail.
SDPO_HD inline RowFlag::Value finish_row(const LossArguments& a, int64_t row, const double* sums,
                                         RowCoefficients* coefficients, unsigned long long* failure) {
  const bool weighted = a.element_weights.data != nullptr;
  const double size = weighted ? sums[Sum::weights] : static_cast<double>(a.size);
  const auto fail = [&](RowFailure::Kind kind) {
    *failure = kFailureBase - (2 * static_cast<uint64_t>(row) + kind);
    return RowFlag::invalid;
  };
  if (weighted && a.wants_sums && !(size > 0 && is_finite(size) && sums[Sum::lowest_weight] >= 0)) {
    if (a.passes & (Pass::moments |
                    Pass::objective)) {  // what nobody looks at before it is used must not be what was there before
      for (int field = 0; field < RowOutput::count; ++field) a.row_outputs[field * a.rows + row] = NAN;
      a.row_outputs[RowOutput::nonFinite * a.rows + row] = 1;
    }
    return fail(RowFailure::element_weights);
  }
  bool finite = true;
  const bool drift_c = a.chosen.reference.data != nullptr, drift_r = a.rejected.reference.data != nullptr;
  BranchMoments chosen, rejected;
  if (a.passes & Pass::moments) {
    chosen = branch_moments(a, true, row, sums, size);
    rejected = branch_moments(a, false, row, sums, size);
    store_moments(chosen, rejected, a.passes & Pass::cross ? sums[Sum::cross] / size : NAN, size, a.row_outputs, a.rows,
                  row);
    finite = finite_moments(chosen, drift_c) && finite_moments(rejected, drift_r);
  } else if (a.passes & Pass::objective) {
    chosen = load_moments(a.row_outputs, a.rows, row, true);
    rejected = load_moments(a.row_outputs, a.rows, row, false);
  }
  if (a.passes & Pass::objective) {
    const RowResult result = evaluate_row(a.options, a.non_finite, load_row_scalars(a.row_inputs, a.rows, row), chosen,
                                          rejected, size, drift_c, drift_r, a.gradient_scale / a.denominator,
                                          a.row_outputs[RowOutput::cross * a.rows + row]);
    store_row_result(result, a.row_outputs, a.rows, row);
    finite = finite && !result.non_finite;
  }
  // After all outputs are there: with results on the device the flag of the row is what tells of it.
  if (!finite && a.non_finite == NonFinite::fail) return fail(RowFailure::non_finite);
  if (a.passes & Pass::gradients) *coefficients = row_coefficients(a, row, size);
  return RowFlag::ready;
}

}  // namespace sdpo::cuda
