// One row from the sums over its elements to its outputs and the coefficients of its gradient, for host and device
// compilers: the protocol of both backends.
//
//   A = dL/dm + dL/ddelta        B = dL/dq        dL/du_theta = (2/D)(A d + B h)
#pragma once

#include "terms.h"

namespace sdpo {

// ---- The objective of a row

struct RowResult {
  double loss, logit, mask;
  BranchTerms chosen, rejected;
  double a_chosen, a_rejected, b_chosen, b_rejected;
  int clipped, log_ratio_clipped;
  bool non_finite;
};

SDPO_HD inline bool finite_moments(const BranchMoments& x, bool has_drift) {
  return is_finite(x.m) && is_finite(x.delta) && (!has_drift || is_finite(x.q));
}

// What is the same for all rows of a call.
struct RowRules {
  ObjectiveRules rules;
  double scale = 1;                                   // gradient_scale / denominator, which goes into A and B
  bool drift_chosen = false, drift_rejected = false;  // whether q exists
};

SDPO_HD inline RowTerms evaluate_objective(const ObjectiveRules& rules, const BranchTerms& c, const BranchTerms& r,
                                           double margin) {
  switch (rules.options.objective) {
#define SDPO_CASE(id, name, T) \
  case Objective::id:          \
    return T::evaluate(rules, c, r, margin);
    SDPO_OBJECTIVES(SDPO_CASE)
#undef SDPO_CASE
  }
  return RowTerms();  // not reached: the number of the objective is checked where a call enters
}

// `safeguard` multiplies the rejected gradient.
SDPO_HD inline RowResult evaluate_row(const RowRules& of, const RowScalars& row, const BranchMoments& chosen,
                                      const BranchMoments& rejected, const RowSizes& size, double safeguard) {
  const ObjectiveOptions& options = of.rules.options;
  const BranchResult c = branch_terms(of.rules, row.chosen, chosen, size.chosen);
  const BranchResult r = branch_terms(of.rules, row.rejected, rejected, size.rejected);
  RowResult out{};
  out.chosen = c.terms;
  out.rejected = r.terms;

  bool finite = finite_moments(chosen, of.drift_chosen) && finite_moments(rejected, of.drift_rejected);
  const bool has_psi = !row.chosen.no_psi && !row.rejected.no_psi;
  const bool unmasked = traits_of(options.objective).weights == 0 ||
                        (c.terms.lambda >= row.log_mask_floor && r.terms.lambda >= row.log_mask_floor);
  const bool kept = has_psi && row.wanted && (unmasked || !finite);

  RowTerms terms = evaluate_objective(of.rules, c.terms, r.terms, row.margin);
  out.logit = terms.logit;
  out.clipped = terms.clipped;
  out.log_ratio_clipped = c.log_ratio_clipped + r.log_ratio_clipped;
  if (!kept) {  // a removed row: written as 0, never as 0 * infinity
    terms.loss = 0;
    terms.chosen = Partials();
    terms.rejected = Partials();
  }
  if (options.safeguard >= 0) {
    terms.rejected.psi *= safeguard;
    terms.rejected.lambda *= safeguard;
    terms.rejected.m *= safeguard;
    terms.rejected.delta *= safeguard;
    terms.rejected.q *= safeguard;
  }
  // Anchors: sftWeight * m_c and klWeight * (q_c + q_r), on every row or on the removed ones.
  if (options.sft_weight != 0 && (options.sft_scope == Scope::all || !kept)) {
    terms.loss += options.sft_weight * chosen.m;
    terms.chosen.m += options.sft_weight;
  }
  if (options.kl_weight != 0 && (options.kl_scope == Scope::all || !kept)) {
    terms.loss += options.kl_weight * (chosen.q + rejected.q);
    terms.chosen.q += options.kl_weight;
    terms.rejected.q += options.kl_weight;
  }
  const double weight = row.row_weight * of.scale;
  out.loss = row.row_weight * terms.loss;
  out.a_chosen = weight * coefficient_a(terms.chosen, c);
  out.a_rejected = weight * coefficient_a(terms.rejected, r);
  out.b_chosen = weight * terms.chosen.q;
  out.b_rejected = weight * terms.rejected.q;
  out.mask = kept ? 1 : 0;

  if (finite) {
    finite = is_finite(out.loss) && is_finite(out.a_chosen) && is_finite(out.a_rejected) && is_finite(out.b_chosen) &&
             is_finite(out.b_rejected);
  }
  out.non_finite = !finite;
  if (!finite) {
    if (options.non_finite == NonFinite::propagate) {
      // A removed row without an anchor stays at 0: nothing of it is read.
      const bool read = kept || !(out.loss == 0 && out.a_chosen == 0 && out.a_rejected == 0 && out.b_chosen == 0 &&
                                  out.b_rejected == 0);
      if (read) out.loss = out.a_chosen = out.a_rejected = NAN;
    } else {  // removed with its anchors
      out.loss = out.a_chosen = out.a_rejected = out.b_chosen = out.b_rejected = out.mask = 0;
      out.clipped = out.log_ratio_clipped = 0;
    }
  }
  return out;
}

// ---- From the sums of a row to its outputs: the protocol of both backends

// What the gradient of a row is made of: out = a d + b h, with 2/D and the gradient scale inside.
struct RowCoefficients {
  double a_chosen, b_chosen, a_rejected, b_rejected;
};

enum class RowEnd : uint8_t { done, element_weights, non_finite };  // anything but done: the call has to fail

// Whether the objective of a row needs the moments of every row: then a backend runs the moments pass first.
SDPO_HD inline bool needs_all_moments(const ObjectiveOptions& options) {
  return options.safeguard >= 0 && options.safeguard_scope == SafeguardScope::batch;
}

// The rows of a call.
struct RowTask {
  RowRules of;
  RowColumns columns;
  double* outputs = nullptr;
  int64_t rows = 0;
  int64_t size = 0;  // D
  int passes = 0;
  bool weighted = false;        // there are element weights
  bool weighted_apart = false;  // and each branch has its own
  bool wants_sums = false;      // the moments, or the sum of the element weights
  double batch_safeguard = -1;  // the factor of safeguardScope 'batch', where it is known already
};

inline RowTask make_row_task(const Problem& problem) {
  RowTask task;
  task.of.rules = make_rules(problem.options);
  task.of.scale = problem.gradient_scale / problem.denominator;
  task.of.drift_chosen = problem.chosen.reference.data != nullptr;
  task.of.drift_rejected = problem.rejected.reference.data != nullptr;
  task.columns = problem.columns;
  task.outputs = problem.row_outputs;
  task.rows = problem.rows;
  task.size = problem.size;
  task.passes = problem.passes;
  task.weighted = problem.element_weights.data != nullptr;
  task.weighted_apart = problem.rejected_element_weights.data != nullptr;
  task.wants_sums = (problem.passes & Pass::moments) != 0 || task.weighted;
  return task;
}

#define SDPO_OUT(field) task.outputs[RowOutput::field * task.rows + row]

SDPO_HD inline BranchMoments branch_moments(const BranchSums& sums, double size, bool has_reference,
                                            const RowColumn& reference_error, int64_t row) {
  BranchMoments out;
  if (size == 0) return out;  // a part without elements
  out.m = sums.error / size;
  if (has_reference) {
    out.delta = sums.delta / size;
    out.q = sums.drift / size;
  } else {
    out.delta = out.m - column_value(reference_error, row);
    out.q = NAN;
  }
  return out;
}

SDPO_HD inline void store_moments(const RowTask& task, int64_t row, const BranchMoments& c, const BranchMoments& r,
                                  double cross, const RowSizes& size) {
  SDPO_OUT(elementSumChosen) = size.chosen;
  SDPO_OUT(elementSumRejected) = size.rejected;
  SDPO_OUT(errorChosen) = c.m;
  SDPO_OUT(errorRejected) = r.m;
  SDPO_OUT(referenceErrorChosen) = c.m - c.delta;
  SDPO_OUT(referenceErrorRejected) = r.m - r.delta;
  SDPO_OUT(driftChosen) = c.q;
  SDPO_OUT(driftRejected) = r.q;
  SDPO_OUT(deltaChosen) = c.delta;
  SDPO_OUT(deltaRejected) = r.delta;
  SDPO_OUT(cross) = cross;
}

// Whether store_moments writes the field.
SDPO_HD inline bool is_moment(int field) {
  return (field >= RowOutput::errorChosen && field <= RowOutput::deltaRejected) || field == RowOutput::cross ||
         field == RowOutput::elementSumChosen || field == RowOutput::elementSumRejected;
}

SDPO_HD inline void store_result(const RowTask& task, int64_t row, const RowResult& r) {
  SDPO_OUT(loss) = r.loss;
  SDPO_OUT(logit) = r.logit;
  SDPO_OUT(mask) = r.mask;
  SDPO_OUT(rewardChosen) = r.chosen.psi;
  SDPO_OUT(rewardRejected) = r.rejected.psi;
  SDPO_OUT(logWeightChosen) = r.chosen.lambda;
  SDPO_OUT(logWeightRejected) = r.rejected.lambda;
  SDPO_OUT(weightChosen) = elementary::exp(r.chosen.log_weight);
  SDPO_OUT(weightRejected) = elementary::exp(r.rejected.log_weight);
  SDPO_OUT(aChosen) = r.a_chosen;
  SDPO_OUT(aRejected) = r.a_rejected;
  SDPO_OUT(bChosen) = r.b_chosen;
  SDPO_OUT(bRejected) = r.b_rejected;
  SDPO_OUT(clipped) = r.clipped;
  SDPO_OUT(logRatioClipped) = r.log_ratio_clipped;
  SDPO_OUT(nonFinite) = r.non_finite ? 1 : 0;
}

// What the elements of this call come to.
SDPO_HD inline RowSizes sizes_of(const RowTask& task, const RowSums& sums) {
  const double chosen = task.weighted ? sums.weights : static_cast<double>(task.size);
  return {chosen, task.weighted_apart ? sums.rejected_weights : chosen};
}

// Whether the element weights of a row are what they may be: finite, none below 0, and of positive sum, unless the row
// is a part of one whose other elements may have the weight. The objective alone looks at what a whole row has.
SDPO_HD inline bool acceptable_weights(const RowTask& task, const RowSums& sums, int64_t row) {
  const auto whole = [&] { return SDPO_OUT(elementSumChosen) > 0 && SDPO_OUT(elementSumRejected) > 0; };
  if (!(task.passes & (Pass::moments | Pass::gradients))) return whole();
  if (!task.weighted || !task.wants_sums) return true;
  const RowSizes size = sizes_of(task, sums);
  if (!(is_finite(size.chosen) && is_finite(size.rejected) && sums.lowest_weight >= 0)) return false;
  const bool moments_alone = (task.passes & (Pass::objective | Pass::gradients)) == 0;
  return (size.chosen > 0 && size.rejected > 0) || moments_alone || (!(task.passes & Pass::moments) && whole());
}

// What every element of a row is divided by: of the whole row where this is a part of one, else what the call has.
SDPO_HD inline RowSizes whole_of(const RowSizes& stored, const RowSizes& here) {
  return {stored.chosen > 0 ? stored.chosen : here.chosen, stored.rejected > 0 ? stored.rejected : here.rejected};
}

// A and B as the elements of a gradient are multiplied by them.
SDPO_HD inline RowCoefficients scaled(const RowCoefficients& found, const RowSizes& size) {
  const double chosen = 2 / size.chosen, rejected = 2 / size.rejected;
  return {chosen * found.a_chosen, chosen * found.b_chosen, rejected * found.a_rejected, rejected * found.b_rejected};
}

// The same for a gradient pass whose A and B are in the outputs.
SDPO_HD inline RowCoefficients row_coefficients(const RowTask& task, int64_t row, const RowSizes& here) {
  const RowSizes stored = {SDPO_OUT(elementSumChosen), SDPO_OUT(elementSumRejected)};
  return scaled({SDPO_OUT(aChosen), SDPO_OUT(bChosen), SDPO_OUT(aRejected), SDPO_OUT(bRejected)},
                whole_of(stored, here));
}

// What nobody looks at before it is used must not be what was there before. Given moments stay: other rows may be
// reading them.
SDPO_HD inline void store_nothing(const RowTask& task, int64_t row) {
  for (int field = 0; field < RowOutput::count; ++field) {
    if ((task.passes & Pass::moments) || !is_moment(field)) task.outputs[field * task.rows + row] = NAN;
  }
  SDPO_OUT(nonFinite) = 1;
}

// Writes the outputs of a row. Where the call forms a gradient and does not fail, use(coefficients) is called before
// those of the objective are written, so that the gradient need not wait for that. `kOneSize`: both branches are known
// to have the same elements, so that a kernel without element weights keeps one number for them.
template <bool kOneSize, class Use>
SDPO_HD inline RowEnd finish_row(const RowTask& task, int64_t row, const RowSums& sums, const Use& use) {
  const auto wants = [&](int pass) { return (task.passes & pass) != 0; };
  if (!acceptable_weights(task, sums, row)) {
    if (wants(Pass::moments | Pass::objective)) store_nothing(task, row);
    return RowEnd::element_weights;
  }
  // What this call finds out is used from here and not from the outputs: on a device, reading back what was just
  // written takes longer than forming it.
  BranchMoments chosen, rejected;
  RowSizes size;  // what the outputs say of the elements
  double cross = NAN;
  bool finite = true;
  if (wants(Pass::moments)) {
    const RowColumn* fields = task.columns.fields;
    size = sizes_of(task, sums);
    if (kOneSize) size.rejected = size.chosen;
    chosen =
        branch_moments(sums.chosen, size.chosen, task.of.drift_chosen, fields[RowInput::referenceErrorChosen], row);
    rejected = branch_moments(sums.rejected, size.rejected, task.of.drift_rejected,
                              fields[RowInput::referenceErrorRejected], row);
    // One weighting: a mean over pairs of elements has no other.
    if (wants(Pass::cross)) cross = size.chosen == 0 ? 0 : sums.cross / size.chosen;
    store_moments(task, row, chosen, rejected, cross, size);
    finite = finite_moments(chosen, task.of.drift_chosen) && finite_moments(rejected, task.of.drift_rejected);
  } else {
    chosen = {SDPO_OUT(errorChosen), SDPO_OUT(deltaChosen), SDPO_OUT(driftChosen)};
    rejected = {SDPO_OUT(errorRejected), SDPO_OUT(deltaRejected), SDPO_OUT(driftRejected)};
    size.chosen = SDPO_OUT(elementSumChosen);
    size.rejected = kOneSize ? size.chosen : SDPO_OUT(elementSumRejected);
    cross = SDPO_OUT(cross);
  }
  const ObjectiveOptions& options = task.of.rules.options;
  RowResult result{};
  if (wants(Pass::objective)) {
    double safeguard = task.batch_safeguard;
    if (options.safeguard >= 0 && safeguard < 0) {
      safeguard = needs_all_moments(options) ? batch_safeguard_factor(options.safeguard, task.outputs, task.rows)
                                             : safeguard_factor(options.safeguard, chosen.m, cross);
    }
    result = evaluate_row(task.of, load_row(task.columns, options, row, size), chosen, rejected, size, safeguard);
    finite = finite && !result.non_finite;
  } else {
    result.a_chosen = SDPO_OUT(aChosen);
    result.b_chosen = SDPO_OUT(bChosen);
    result.a_rejected = SDPO_OUT(aRejected);
    result.b_rejected = SDPO_OUT(bRejected);
  }
  const bool fails = !finite && options.non_finite == NonFinite::fail;
  if (wants(Pass::gradients) && !fails) {
    // Without element weights a gradient alone does not come here, so that the size of the whole row is there.
    use(scaled({result.a_chosen, result.b_chosen, result.a_rejected, result.b_rejected},
               kOneSize ? size : whole_of(size, sizes_of(task, sums))));
  }
  if (wants(Pass::objective)) store_result(task, row, result);
  return fails ? RowEnd::non_finite : RowEnd::done;
}

// Whether the gradient of a branch may leave the range of its dtype although the row is finite. A bound, which spares
// looking: |d| <= sqrt(D m), and with element weights e |d| <= (sum e) sqrt(m).
inline bool may_overflow(const RowTask& task, int64_t row, bool chosen, DType dtype) {
  constexpr double kLargest[] = {DBL_MAX, FLT_MAX, 65504, 0x1.fep127};  // by DType
  const double elements = chosen ? SDPO_OUT(elementSumChosen) : SDPO_OUT(elementSumRejected);
  const double reach = task.weighted ? elements : sqrt(elements);
  const double a = 2 / elements * fabs(chosen ? SDPO_OUT(aChosen) : SDPO_OUT(aRejected));
  const double b = 2 / elements * fabs(chosen ? SDPO_OUT(bChosen) : SDPO_OUT(bRejected));
  const double m = chosen ? SDPO_OUT(errorChosen) : SDPO_OUT(errorRejected);
  const double q = chosen ? SDPO_OUT(driftChosen) : SDPO_OUT(driftRejected);
  const double bound = reach * (a * sqrt(m) + (b > 0 ? b * sqrt(q) : 0));
  const double coefficient = dtype == DType::float64 ? DBL_MAX : FLT_MAX;  // of what the gradient is computed in
  return !(bound < kLargest[static_cast<int>(dtype)]) || !(a < coefficient) || !(b < coefficient);
}

#undef SDPO_OUT

}  // namespace sdpo
