// How a row ends in a kernel, for host and device compilers: its sums, what it leaves to its gradient, and its failure.
#pragma once

#include "arguments.h"
#include "pack.cuh"

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

SDPO_HD inline uint64_t word_of(double coefficient) { return bit_cast<uint64_t>(coefficient) ^ RowWord::nothing; }

SDPO_HD inline double number_of(uint64_t word) { return bit_cast<double>(word ^ RowWord::nothing); }

// False: the row failed.
SDPO_HD inline bool coefficients_of(const uint64_t (&words)[RowWord::count], RowCoefficients* out) {
  out->a_chosen = number_of(words[RowWord::a_chosen]);
  out->b_chosen = number_of(words[RowWord::b_chosen]);
  out->a_rejected = number_of(words[RowWord::a_rejected]);
  out->b_rejected = number_of(words[RowWord::b_rejected]);
  return words[RowWord::a_chosen] != RowWord::invalid;
}

// Calls tell(words) once, as soon as the gradient of the row may begin, and writes the outputs. Returns the failure's
// number (arguments.h) where the call has to fail, else 0.
template <bool kPlain, class Tell>
SDPO_HD inline unsigned long long finish_row(const LossArguments& a, int64_t row, const double* sums,
                                             const Tell& tell) {
  bool told = false;
  const RowEnd end = sdpo::finish_row<kPlain>(a, row, row_sums(sums), [&](const RowCoefficients& x) {
    tell({word_of(x.a_chosen), word_of(x.b_chosen), word_of(x.a_rejected), word_of(x.b_rejected)});
    told = true;
  });
  if (!told) {  // there is no gradient
    const uint64_t word = end == RowEnd::done ? word_of(0) : RowWord::invalid;
    tell({word, word, word, word});
  }
  if (end == RowEnd::done) return 0;
  const RowFailure::Kind kind = end == RowEnd::non_finite ? RowFailure::non_finite : RowFailure::element_weights;
  // A gradient pass that comes later finds NaN as the fused one does.
  if (end == RowEnd::non_finite && a.poison && (a.passes & Pass::objective)) {
    a.outputs[RowOutput::aChosen * a.rows + row] = a.outputs[RowOutput::aRejected * a.rows + row] = NAN;
  }
  return kFailureBase - (2 * static_cast<uint64_t>(row) + kind);
}

}  // namespace sdpo::cuda
