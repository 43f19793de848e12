// The mathematics of every objective: from a row's moments and scalars to its loss and gradient coefficients, for host
// and device compilers.
//
// Notation (docs/mathematics.md): d = u_theta - u, h = u_theta - u_ref; m = mean d^2, delta = mean h(2d - h), q = mean
// h^2;
//   psi    = -psiScale * delta
//   lambda = weightOffset - weightScale * (m | delta | m - delta) + weightNoise * sqrt(m / D)          w = exp(lambda)
// Each objective states its loss and, side by side, its partial derivatives with respect to psi, lambda, m, delta and q
// of both branches; the chain rule down to the two coefficients per branch
//   A = dL/dm + dL/ddelta        B = dL/dq        dL/du_theta = (2/D)(A d + B h)
// is written once, in evaluate_row.
#pragma once

#include <cfloat>
#include <cmath>

#include "problem.h"

#if defined(__CUDACC__)
#define SDPO_HD __host__ __device__
#else
#define SDPO_HD
#endif

namespace sdpo {

struct BranchMoments {
  double m = 0;      // mean squared error of the policy
  double delta = 0;  // m - r, accumulated without cancellation
  double q = 0;      // mean squared distance to the reference; NaN without a reference tensor
};

struct BranchScalars {
  double psi_scale, weight_scale, weight_offset, weight_noise;
};

struct RowScalars {
  BranchScalars chosen, rejected;
  double log_mask_floor, log_clip_low, log_clip_high, row_weight;
};

// What an objective is given of a branch.
struct BranchTerms {
  double psi = 0, lambda = 0;
  double m = 0, delta = 0, q = 0;
};

struct Partials {
  double psi = 0, lambda = 0, m = 0, delta = 0, q = 0;
};

// What an objective answers for a kept row. `clipped` counts the weights that the clip changed.
struct RowTerms {
  double loss = 0, logit = 0;
  Partials chosen, rejected;
  int clipped = 0;
};

struct RowResult {
  double loss, logit, mask;
  BranchTerms chosen, rejected;
  double a_chosen, a_rejected, b_chosen, b_rejected;
  int clipped;
  bool non_finite;
};

struct ValueAndDerivative {
  double value, derivative;
};

// Spelt out, since std::isfinite and its kin are not found under one name by host and device compilers.
SDPO_HD inline bool is_finite(double x) { return fabs(x) <= DBL_MAX; }
SDPO_HD inline bool is_infinite(double x) { return fabs(x) > DBL_MAX; }

// ---- Links f(z)

// log(1 + e^x) without overflow or loss of small values.
SDPO_HD inline double softplus(double x) { return fmax(x, 0.0) + log1p(exp(-fabs(x))); }

SDPO_HD inline double sigmoid(double x) {
  const double e = exp(-fabs(x));
  return x >= 0 ? 1 / (1 + e) : e / (1 + e);
}

// f(z) = -(1-alpha) log sigma(z) - alpha log sigma(-z)          f'(z) = -(1-alpha) sigma(-z) + alpha sigma(z)
SDPO_HD inline ValueAndDerivative sigmoid_link(double z, double alpha) {
  const double value = (1 - alpha) * softplus(-z) + (alpha != 0 ? alpha * softplus(z) : 0);
  return {value, -(1 - alpha) * sigmoid(-z) + alpha * sigmoid(z)};
}

// f(z) = max(0, 1 - z)          f'(z) = -1 for z < 1, and 0 from z = 1 on
SDPO_HD inline ValueAndDerivative hinge_link(double z) {
  return z < 1 ? ValueAndDerivative{1 - z, -1} : ValueAndDerivative{z >= 1 ? 0 : z, 0};  // NaN stays NaN
}

// f(z) = (z/beta - 1/(2 beta))^2          f'(z) = 2 (z/beta - 1/(2 beta)) / beta
SDPO_HD inline ValueAndDerivative ipo_link(double z, double beta) {
  const double r = (z - 0.5) / beta;
  return {r * r, 2 * r / beta};
}

SDPO_HD inline ValueAndDerivative link(const ObjectiveOptions& options, double z) {
  switch (options.link) {
    case Link::hinge:
      return hinge_link(z);
    case Link::ipo:
      return ipo_link(z, options.beta);
    case Link::sigmoid:
      break;
  }
  return sigmoid_link(z, options.label_smoothing);
}

// ---- The clipped weight

struct ClippedWeight {
  double value;       // exp(lambda) bounded to [exp(low), exp(high)]
  double derivative;  // d value / d lambda: the value strictly inside the bounds, 0 outside and exactly on an edge
  int clipped;        // 1 where the bound changed the weight
};

SDPO_HD inline ClippedWeight clip_weight(double lambda, double log_low, double log_high) {
  if (lambda < log_low) return {exp(log_low), 0, 1};
  if (lambda > log_high) return {exp(log_high), 0, 1};
  const double w = exp(lambda);
  return {w, lambda > log_low && lambda < log_high ? w : 0, 0};
}

// ---- Objectives: loss of a kept row and its partial derivatives. The list of problem.h names every struct.
//
// kWeights: how many weights the clip looks at in one row; with weights come the mask and the options of both.
// kDrift: whether a derivative of its own by q can be other than 0; the gradient then reads the reference.

// Diffusion-DPO (arXiv 2311.12908, eq. 14): L = f(psi_c - psi_r).
struct DiffusionDpo {
  static constexpr int kWeights = 0;
  static constexpr bool kDrift = false;
  SDPO_HD static RowTerms evaluate(const ObjectiveOptions& options, const RowScalars&, const BranchTerms& c,
                                   const BranchTerms& r) {
    RowTerms out;
    out.logit = c.psi - r.psi;
    const ValueAndDerivative f = link(options, out.logit);
    out.loss = f.value;
    out.chosen.psi = f.derivative;
    out.rejected.psi = -f.derivative;
    return out;
  }
};

// DPO-C&M (arXiv 2505.21893): L = clip(W) f(psi_c - psi_r) with the pair weight W formed in log space, where products
// cannot underflow.
struct DpoCm {
  static constexpr int kWeights = 1;
  static constexpr bool kDrift = false;
  SDPO_HD static RowTerms evaluate(const ObjectiveOptions& options, const RowScalars& row, const BranchTerms& c,
                                   const BranchTerms& r) {
    double share_c = 0.5, share_r = 0.5;  // d lambda_pair / d lambda of each branch
    double lambda = 0;
    switch (options.pair_weight) {
      case PairWeight::geometric:
        lambda = 0.5 * (c.lambda + r.lambda);
        break;
      case PairWeight::product:
        lambda = c.lambda + r.lambda;
        share_c = share_r = 1;
        break;
      case PairWeight::min:  // a tie counts as chosen
      case PairWeight::max: {
        const bool chosen = options.pair_weight == PairWeight::min ? c.lambda <= r.lambda : c.lambda >= r.lambda;
        lambda = chosen ? c.lambda : r.lambda;
        share_c = chosen ? 1 : 0;
        share_r = chosen ? 0 : 1;
        break;
      }
    }
    const ClippedWeight weight = clip_weight(lambda, row.log_clip_low, row.log_clip_high);
    RowTerms out;
    out.logit = c.psi - r.psi;
    const ValueAndDerivative f = link(options, out.logit);
    out.loss = weight.value * f.value;
    out.chosen.psi = weight.value * f.derivative;
    out.rejected.psi = -out.chosen.psi;
    if (options.weight_gradient) {
      out.chosen.lambda = share_c * weight.derivative * f.value;
      out.rejected.lambda = share_r * weight.derivative * f.value;
    }
    out.clipped = weight.clipped;
    return out;
  }
};

// SDPO (arXiv 2505.21893): L = f(clip(w_c) psi_c - clip(w_r) psi_r).
struct Sdpo {
  static constexpr int kWeights = 2;
  static constexpr bool kDrift = false;
  SDPO_HD static RowTerms evaluate(const ObjectiveOptions& options, const RowScalars& row, const BranchTerms& c,
                                   const BranchTerms& r) {
    const ClippedWeight weight_c = clip_weight(c.lambda, row.log_clip_low, row.log_clip_high);
    const ClippedWeight weight_r = clip_weight(r.lambda, row.log_clip_low, row.log_clip_high);
    RowTerms out;
    out.logit = weight_c.value * c.psi - weight_r.value * r.psi;
    const ValueAndDerivative f = link(options, out.logit);
    out.loss = f.value;
    out.chosen.psi = f.derivative * weight_c.value;
    out.rejected.psi = -f.derivative * weight_r.value;
    if (options.weight_gradient) {
      out.chosen.lambda = f.derivative * c.psi * weight_c.derivative;
      out.rejected.lambda = -f.derivative * r.psi * weight_r.derivative;
    }
    out.clipped = weight_c.clipped + weight_r.clipped;
    return out;
  }
};

// DSPO (Direct Score Preference Optimization): the winner's score is pulled towards a target that the preference shifts
// by s h.
//   L = mean (d_c - s h_c)^2 = m_c - s (delta_c + q_c) + s^2 q_c          s = beta sigma(-(psi_c - psi_r))
// since mean d h = (delta + q)/2. The gradient flows through s as well: ds/dz = -beta sigma(z) sigma(-z).
struct Dspo {
  static constexpr int kWeights = 0;
  static constexpr bool kDrift = true;
  SDPO_HD static RowTerms evaluate(const ObjectiveOptions& options, const RowScalars&, const BranchTerms& c,
                                   const BranchTerms& r) {
    RowTerms out;
    out.logit = c.psi - r.psi;
    const double s = options.beta * sigmoid(-out.logit);
    out.loss = c.m - s * (c.delta + c.q) + s * s * c.q;
    out.chosen.m = 1;
    out.chosen.delta = -s;
    out.chosen.q = s * s - s;
    const double slope = (2 * s * c.q - (c.delta + c.q)) * -s * sigmoid(out.logit);
    out.chosen.psi = slope;
    out.rejected.psi = -slope;
    return out;
  }
};

// DMPO (Divergence Minimization Preference Optimization): reverse KL between Bernoulli distributions, p = sigma(z)
// against 1 - alpha.
//   L = p log(p / (1-alpha)) + (1-p) log((1-p) / alpha)          dL/dz = p (1-p) (z - log((1-alpha)/alpha))
struct Dmpo {
  static constexpr int kWeights = 0;
  static constexpr bool kDrift = false;
  SDPO_HD static RowTerms evaluate(const ObjectiveOptions& options, const RowScalars&, const BranchTerms& c,
                                   const BranchTerms& r) {
    RowTerms out;
    const double z = c.psi - r.psi;
    const double p = sigmoid(z), rest = sigmoid(-z);
    const double log_right = log1p(-options.dmpo_alpha), log_wrong = log(options.dmpo_alpha);
    out.logit = z;
    out.loss = p * (-softplus(-z) - log_right) + rest * (-softplus(z) - log_wrong);
    out.chosen.psi = p * rest * (z - (log_right - log_wrong));
    out.rejected.psi = -out.chosen.psi;
    return out;
  }
};

// phi(x) = x / (e^x - 1) for x >= 0, and its derivative; a series near 0, where both cancel.
SDPO_HD inline ValueAndDerivative odds(double x) {
  if (x < 0.02) {
    const double x2 = x * x;
    return {1 - x / 2 + x2 / 12 - x2 * x2 / 720 + x2 * x2 * x2 / 30240,
            -0.5 + x / 6 - x * x2 / 180 + x * x2 * x2 / 5040};
  }
  const double inverse = 1 / expm1(x);  // 0 where the exponential overflows
  return {x * inverse, (1 - x * (1 + inverse)) * inverse};
}

// MaPO (Margin-aware Preference Optimization, arXiv 2406.06424): no reference; the winner's error and a margin of odds.
//   L = m_c - beta log sigma(z)          z = T (phi(s m_c) - phi(s m_r))
struct Mapo {
  static constexpr int kWeights = 0;
  static constexpr bool kDrift = false;
  SDPO_HD static RowTerms evaluate(const ObjectiveOptions& options, const RowScalars&, const BranchTerms& c,
                                   const BranchTerms& r) {
    const ValueAndDerivative odds_c = odds(options.mapo_scale * c.m), odds_r = odds(options.mapo_scale * r.m);
    RowTerms out;
    out.logit = options.mapo_steps * (odds_c.value - odds_r.value);
    out.loss = c.m + options.beta * softplus(-out.logit);
    const double slope = -options.beta * sigmoid(-out.logit) * options.mapo_steps * options.mapo_scale;
    out.chosen.m = 1 + slope * odds_c.derivative;
    out.rejected.m = -slope * odds_r.derivative;
    return out;
  }
};

// The safeguard of Diffusion-SDPO (arXiv 2511.03317), per pair: a factor on the rejected branch's gradient. x = mean
// d_c d_r. Values do not change, only A and B.
//   factor = min(1, (1-mu) m_c / x) where x > 0, else 1
// The two gradients meet in the parameters. Where those move both predictions alike, the winner's error changes to
// first order by
//   -(4 eta/D) (A_c m_c + factor A_r x)
// and with |A_r| <= |A_c| the second term takes at most the share 1-mu away from the first.
SDPO_HD inline double safeguard_factor(double mu, double m_c, double x) {
  if (!(x > 0)) return 1;
  const double factor = (1 - mu) * m_c / x;
  return factor < 1 ? factor : 1;
}

// The traits of an objective that is known at run time.
SDPO_HD inline int weights_per_row(Objective objective) {
  switch (objective) {
#define SDPO_CASE(id, name, T) \
  case Objective::id:          \
    return T::kWeights;
    SDPO_OBJECTIVES(SDPO_CASE)
#undef SDPO_CASE
  }
  return 0;
}

SDPO_HD inline bool has_drift_gradient(const ObjectiveOptions& options) {
  switch (options.objective) {
#define SDPO_CASE(id, name, T) \
  case Objective::id:          \
    return T::kDrift || options.kl_weight != 0;
    SDPO_OBJECTIVES(SDPO_CASE)
#undef SDPO_CASE
  }
  return true;
}

// ---- From moments to psi and lambda

struct LogWeightDerivatives {
  double m = 0, delta = 0;
};

// psi and lambda of a branch. `size` is D or the sum of element weights; with the 'sum' reduction it multiplies what is
// reduced.
SDPO_HD inline BranchTerms branch_terms(const ObjectiveOptions& options, const BranchScalars& s, const BranchMoments& x,
                                        double size, LogWeightDerivatives* derivatives) {
  BranchTerms out;
  out.m = x.m;
  out.delta = x.delta;
  out.q = x.q;
  const double psi_scale = options.sum_psi ? s.psi_scale * size : s.psi_scale;
  out.psi = is_infinite(psi_scale) ? NAN : -psi_scale * x.delta;
  if (is_infinite(s.weight_scale)) {  // no density ratio: tested before multiplying, since the moment may be 0
    out.lambda = -INFINITY;
    return out;
  }
  const double reduce = options.sum_weight ? size : 1;
  const double scale = s.weight_scale * reduce;
  double moment = 0;
  switch (options.weight_ratio) {
    case WeightRatio::policy_data:
      moment = x.m;
      derivatives->m = -scale;
      break;
    case WeightRatio::policy_reference:
      moment = x.delta;
      derivatives->delta = -scale;
      break;
    case WeightRatio::reference_data:  // does not depend on the policy: the two derivatives cancel in A
      moment = x.m - x.delta;
      derivatives->m = -scale;
      derivatives->delta = scale;
      break;
  }
  out.lambda = s.weight_offset * reduce - scale * moment;
  if (s.weight_noise != 0) {
    const double noise = s.weight_noise * reduce;
    out.lambda += noise * sqrt(x.m / size);
    if (x.m > 0) derivatives->m += 0.5 * noise / sqrt(x.m * size);
  }
  return out;
}

// A of one branch by the chain rule: d psi / d delta = -psi_scale, d lambda / d(m, delta) as above.
SDPO_HD inline double coefficient_a(const Partials& p, double psi_scale, const LogWeightDerivatives& w) {
  double a = p.m + p.delta;
  if (p.psi != 0) a -= p.psi * psi_scale;
  if (p.lambda != 0) a += p.lambda * (w.m + w.delta);
  return a;
}

SDPO_HD inline bool finite_moments(const BranchMoments& x, bool has_drift) {
  return is_finite(x.m) && is_finite(x.delta) && (!has_drift || is_finite(x.q));
}

// ---- The row

// `size` is D or the sum of element weights, `drift_*` whether q exists, `scale` = gradient_scale / denominator goes
// into A and B, `cross` is mean d_c d_r and read only with a safeguard.
template <class T>
SDPO_HD RowResult evaluate_row_as(const ObjectiveOptions& options, NonFinite policy, const RowScalars& row,
                                  const BranchMoments& chosen, const BranchMoments& rejected, double size,
                                  bool drift_chosen, bool drift_rejected, double scale, double cross) {
  LogWeightDerivatives dc, dr;
  RowResult out{};
  out.chosen = branch_terms(options, row.chosen, chosen, size, &dc);
  out.rejected = branch_terms(options, row.rejected, rejected, size, &dr);

  bool finite = finite_moments(chosen, drift_chosen) && finite_moments(rejected, drift_rejected);
  const bool has_psi = !is_infinite(row.chosen.psi_scale) && !is_infinite(row.rejected.psi_scale);
  const bool unmasked =
      T::kWeights == 0 || (out.chosen.lambda >= row.log_mask_floor && out.rejected.lambda >= row.log_mask_floor);
  const bool kept = has_psi && (unmasked || !finite);

  RowTerms terms = T::evaluate(options, row, out.chosen, out.rejected);
  out.logit = terms.logit;
  out.clipped = terms.clipped;
  if (!kept) {  // a removed row: written as 0, never as 0 * infinity
    terms.loss = 0;
    terms.chosen = Partials();
    terms.rejected = Partials();
  }
  if (options.safeguard >= 0) {
    const double factor = safeguard_factor(options.safeguard, chosen.m, cross);
    terms.rejected.psi *= factor;
    terms.rejected.lambda *= factor;
    terms.rejected.m *= factor;
    terms.rejected.delta *= factor;
    terms.rejected.q *= factor;
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
  const double s_c = options.sum_psi ? row.chosen.psi_scale * size : row.chosen.psi_scale;
  const double s_r = options.sum_psi ? row.rejected.psi_scale * size : row.rejected.psi_scale;
  const double weight = row.row_weight * scale;
  out.loss = row.row_weight * terms.loss;
  out.a_chosen = weight * coefficient_a(terms.chosen, s_c, dc);
  out.a_rejected = weight * coefficient_a(terms.rejected, s_r, dr);
  out.b_chosen = weight * terms.chosen.q;
  out.b_rejected = weight * terms.rejected.q;
  out.mask = kept ? 1 : 0;

  if (finite) {
    finite = is_finite(out.loss) && is_finite(out.a_chosen) && is_finite(out.a_rejected) && is_finite(out.b_chosen) &&
             is_finite(out.b_rejected);
  }
  out.non_finite = !finite;
  if (!finite) {
    if (policy == NonFinite::propagate) {
      out.loss = out.a_chosen = out.a_rejected = NAN;
    } else {  // removed with its anchors
      out.loss = out.a_chosen = out.a_rejected = out.b_chosen = out.b_rejected = out.mask = 0;
      out.clipped = 0;
    }
  }
  return out;
}

SDPO_HD inline RowResult evaluate_row(const ObjectiveOptions& options, NonFinite policy, const RowScalars& row,
                                      const BranchMoments& chosen, const BranchMoments& rejected, double size,
                                      bool drift_chosen, bool drift_rejected, double scale, double cross = 0) {
  switch (options.objective) {
#define SDPO_CASE(id, name, T) \
  case Objective::id:          \
    return evaluate_row_as<T>(options, policy, row, chosen, rejected, size, drift_chosen, drift_rejected, scale, cross);
    SDPO_OBJECTIVES(SDPO_CASE)
#undef SDPO_CASE
  }
  return RowResult();  // not reached: the number of the objective is checked where a call enters
}

// ---- Rows in the flat layout of the problem

SDPO_HD inline RowScalars load_row_scalars(const double* inputs, int64_t rows, int64_t i) {
#define SDPO_IN(field) inputs[RowInput::field * rows + i]
  return {
      {SDPO_IN(psiScaleChosen), SDPO_IN(weightScaleChosen), SDPO_IN(weightOffsetChosen), SDPO_IN(weightNoiseChosen)},
      {SDPO_IN(psiScaleRejected), SDPO_IN(weightScaleRejected), SDPO_IN(weightOffsetRejected),
       SDPO_IN(weightNoiseRejected)},
      SDPO_IN(logMaskFloor),
      SDPO_IN(logClipLow),
      SDPO_IN(logClipHigh),
      SDPO_IN(rowWeight)};
#undef SDPO_IN
}

SDPO_HD inline void store_row_result(const RowResult& r, double* outputs, int64_t rows, int64_t i) {
#define SDPO_OUT(field) outputs[RowOutput::field * rows + i]
  SDPO_OUT(loss) = r.loss;
  SDPO_OUT(logit) = r.logit;
  SDPO_OUT(mask) = r.mask;
  SDPO_OUT(rewardChosen) = r.chosen.psi;
  SDPO_OUT(rewardRejected) = r.rejected.psi;
  SDPO_OUT(logWeightChosen) = r.chosen.lambda;
  SDPO_OUT(logWeightRejected) = r.rejected.lambda;
  SDPO_OUT(weightChosen) = exp(r.chosen.lambda);
  SDPO_OUT(weightRejected) = exp(r.rejected.lambda);
  SDPO_OUT(aChosen) = r.a_chosen;
  SDPO_OUT(aRejected) = r.a_rejected;
  SDPO_OUT(bChosen) = r.b_chosen;
  SDPO_OUT(bRejected) = r.b_rejected;
  SDPO_OUT(clipped) = r.clipped;
  SDPO_OUT(nonFinite) = r.non_finite ? 1 : 0;
#undef SDPO_OUT
}

SDPO_HD inline void store_moments(const BranchMoments& c, const BranchMoments& r, double cross, double size,
                                  double* outputs, int64_t rows, int64_t i) {
#define SDPO_OUT(field) outputs[RowOutput::field * rows + i]
  SDPO_OUT(errorChosen) = c.m;
  SDPO_OUT(errorRejected) = r.m;
  SDPO_OUT(referenceErrorChosen) = c.m - c.delta;
  SDPO_OUT(referenceErrorRejected) = r.m - r.delta;
  SDPO_OUT(driftChosen) = c.q;
  SDPO_OUT(driftRejected) = r.q;
  SDPO_OUT(deltaChosen) = c.delta;
  SDPO_OUT(deltaRejected) = r.delta;
  SDPO_OUT(cross) = cross;
  SDPO_OUT(elementSum) = size;
#undef SDPO_OUT
}

SDPO_HD inline BranchMoments load_moments(const double* outputs, int64_t rows, int64_t i, bool chosen) {
#define SDPO_OUT(field) outputs[RowOutput::field * rows + i]
  return chosen ? BranchMoments{SDPO_OUT(errorChosen), SDPO_OUT(deltaChosen), SDPO_OUT(driftChosen)}
                : BranchMoments{SDPO_OUT(errorRejected), SDPO_OUT(deltaRejected), SDPO_OUT(driftRejected)};
#undef SDPO_OUT
}

// ---- The batch: loss and means over rows, in row order, so that the sum has one order on every backend.

// Kept apart from the rows so that a device can run it in one thread, or split the fields over threads: field k depends
// on nothing else.
SDPO_HD inline double batch_metric(int metric, const Objective objective, double denominator, const double* outputs,
                                   int64_t rows) {
  double sum = 0;
  int64_t count = 0;
  const auto at = [&](int field, int64_t i) { return outputs[field * rows + i]; };
  for (int64_t i = 0; i < rows; ++i) {
    double value = 0;
    switch (metric) {
      case Metric::batchLoss:
        sum += at(RowOutput::loss, i);
        continue;
      case Metric::implicitAccuracy: {  // NaN where a reward does not exist
        const double margin = at(RowOutput::rewardChosen, i) - at(RowOutput::rewardRejected, i);
        value = margin > 0 ? 1 : margin < 0 ? 0 : margin == 0 ? 0.5 : margin;
        break;
      }
      case Metric::rewardMargin:
        value = at(RowOutput::rewardChosen, i) - at(RowOutput::rewardRejected, i);
        break;
      case Metric::maskFraction:
        value = 1 - at(RowOutput::mask, i);
        break;
      case Metric::clipFraction:
        sum += at(RowOutput::clipped, i);
        count += weights_per_row(objective);
        continue;
      case Metric::nonFiniteRows:
        sum += at(RowOutput::nonFinite, i);
        continue;
      default:
        value = at(metric - Metric::loss + RowOutput::loss, i);
    }
    if (is_finite(value)) {
      sum += value;
      ++count;
    }
  }
  if (metric == Metric::batchLoss) return sum / denominator;
  if (metric == Metric::nonFiniteRows) return sum;
  if (metric == Metric::clipFraction && count == 0) return 0;
  return count > 0 ? sum / static_cast<double>(count) : NAN;
}

}  // namespace sdpo
