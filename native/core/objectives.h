// The objectives: from psi, lambda and the moments of a row to its loss and its partial derivatives, for host and
// device compilers.
//
// Notation (docs/mathematics.md): d = u_theta - u, h = u_theta - u_ref; m = mean d^2, delta = mean h(2d - h), q = mean
// h^2; psi the implicit reward, lambda the log weight, w = exp(e lambda) the weight. How these come about, and the
// chain rule down to the tensors, is in row.h. Each objective states its loss and, side by side, its partial
// derivatives with respect to psi, lambda, m, delta and q of both branches, each taken with the others held fixed.
#pragma once

#include <cmath>

#include "columns.h"
#include "elementary.h"
#include "host_device.h"
#include "options.h"

namespace sdpo {

// Third: the struct with the loss and its derivatives. Append: the position is the number that crosses to other
// languages.
// clang-format off
#define SDPO_OBJECTIVES(X)                        \
  X(diffusion_dpo, "diffusion-dpo", DiffusionDpo) \
  X(dpo_cm, "dpo-cm", DpoCm)                      \
  X(sdpo, "sdpo", Sdpo)                           \
  X(dspo, "dspo", Dspo)                           \
  X(dmpo, "dmpo", Dmpo)                           \
  X(mapo, "mapo", Mapo)                           \
  X(linear_dpo, "linear-dpo", LinearDpo)
// clang-format on
SDPO_NAMED_ENUM(Objective, SDPO_OBJECTIVES)

// The options, and what is formed of them once per call.
struct ObjectiveRules {
  ObjectiveOptions options;
  double log_clip_low = 0, log_clip_high = 0;    // bounds of e lambda
  double log_ratio_low = 0, log_ratio_high = 0;  // bounds of the log-ratio of a branch
};

inline ObjectiveRules make_rules(const ObjectiveOptions& options) {
  return {options, elementary::log(options.clip_low), elementary::log(options.clip_high),
          elementary::log(options.log_ratio_clip_low), elementary::log(options.log_ratio_clip_high)};
}

// What an objective is given of a branch.
struct BranchTerms {
  double psi = 0, lambda = 0;
  double log_weight = 0;  // e lambda
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

struct ValueAndDerivative {
  double value, derivative;
};

// ---- Links f(z)

// log(1 + e^x) without overflow or loss of small values.
SDPO_HD inline double softplus(double x) { return fmax(x, 0.0) + elementary::log1p(elementary::exp(-fabs(x))); }

SDPO_HD inline double sigmoid(double x) {
  const double e = elementary::exp(-fabs(x));
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

// ---- Weights

struct ClippedWeight {
  double value;       // exp(e lambda) within the clip range
  double derivative;  // d value / d lambda: e value strictly inside the range, 0 outside and exactly on an edge
  int clipped;        // 1 where the clip changed the weight
};

SDPO_HD inline ClippedWeight clip_weight(const ObjectiveRules& rules, double log_weight) {
  const bool below = log_weight < rules.log_clip_low;
  const bool above = log_weight > rules.log_clip_high;
  // One exponential for the three cases: each one more costs the kernels registers.
  const double w = elementary::exp(below ? rules.log_clip_low : above ? rules.log_clip_high : log_weight);
  const bool inside = log_weight > rules.log_clip_low && log_weight < rules.log_clip_high;
  return {w, inside ? rules.options.weight_exponent * w : 0, below || above ? 1 : 0};
}

// One weight for a pair, formed in log space, where products cannot underflow.
struct PairedWeight {
  ClippedWeight weight;
  double share_chosen, share_rejected;  // d log weight of the pair / d log weight of each branch
};

SDPO_HD inline PairedWeight pair_weight(const ObjectiveRules& rules, const BranchTerms& c, const BranchTerms& r) {
  const PairWeight form = rules.options.pair_weight;
  double log_weight = 0, share_c = 0.5, share_r = 0.5;
  switch (form) {
    case PairWeight::automatic:
    case PairWeight::geometric:
      log_weight = 0.5 * (c.log_weight + r.log_weight);
      break;
    case PairWeight::product:
      log_weight = c.log_weight + r.log_weight;
      share_c = share_r = 1;
      break;
    case PairWeight::min:  // a tie counts as chosen
    case PairWeight::max: {
      const bool chosen = form == PairWeight::min ? c.log_weight <= r.log_weight : c.log_weight >= r.log_weight;
      log_weight = chosen ? c.log_weight : r.log_weight;
      share_c = chosen ? 1 : 0;
      share_r = chosen ? 0 : 1;
      break;
    }
  }
  return {clip_weight(rules, log_weight), share_c, share_r};
}

// ---- Objectives: loss of a kept row and its partial derivatives
//
// kWeights: how many weights the clip looks at in one row (2: one with a pair weight); with weights come the mask and
// the options of both. kReference: it uses psi or delta, so that it needs the reference or its error. kLink: its logit
// goes through the link, so that it has margins and label smoothing. kDrift: a derivative of its own by q can be other
// than 0; it needs reference tensors, and the gradient reads them. `margin` is subtracted from the logit.

// Diffusion-DPO (arXiv 2311.12908, eq. 14): L = f(psi_c - psi_r).
struct DiffusionDpo {
  static constexpr int kWeights = 0;
  static constexpr bool kReference = true, kLink = true, kDrift = false;
  SDPO_HD static RowTerms evaluate(const ObjectiveRules& rules, const BranchTerms& c, const BranchTerms& r,
                                   double margin) {
    RowTerms out;
    out.logit = c.psi - r.psi - margin;
    const ValueAndDerivative f = link(rules.options, out.logit);
    out.loss = f.value;
    out.chosen.psi = f.derivative;
    out.rejected.psi = -f.derivative;
    return out;
  }
};

// DPO-C&M (our reading of arXiv 2505.21893): L = clip(W) f(psi_c - psi_r) with one weight W for the pair.
struct DpoCm {
  static constexpr int kWeights = 1;
  static constexpr bool kReference = true, kLink = true, kDrift = false;
  SDPO_HD static RowTerms evaluate(const ObjectiveRules& rules, const BranchTerms& c, const BranchTerms& r,
                                   double margin) {
    const PairedWeight pair = pair_weight(rules, c, r);
    const ClippedWeight& weight = pair.weight;
    RowTerms out;
    out.logit = c.psi - r.psi - margin;
    const ValueAndDerivative f = link(rules.options, out.logit);
    out.loss = weight.value * f.value;
    out.chosen.psi = weight.value * f.derivative;
    out.rejected.psi = -out.chosen.psi;
    if (rules.options.weight_gradient) {
      out.chosen.lambda = pair.share_chosen * weight.derivative * f.value;
      out.rejected.lambda = pair.share_rejected * weight.derivative * f.value;
    }
    out.clipped = weight.clipped;
    return out;
  }
};

// SDPO (our reading of arXiv 2505.21893): L = f(clip(w_c) psi_c - clip(w_r) psi_r), or with a pair weight
// L = f(clip(W) (psi_c - psi_r)).
struct Sdpo {
  static constexpr int kWeights = 2;
  static constexpr bool kReference = true, kLink = true, kDrift = false;
  SDPO_HD static RowTerms evaluate(const ObjectiveRules& rules, const BranchTerms& c, const BranchTerms& r,
                                   double margin) {
    return rules.options.pair_weight == PairWeight::automatic ? by_branch(rules, c, r, margin)
                                                              : by_pair(rules, c, r, margin);
  }

  SDPO_HD static RowTerms by_branch(const ObjectiveRules& rules, const BranchTerms& c, const BranchTerms& r,
                                    double margin) {
    const ClippedWeight weight_c = clip_weight(rules, c.log_weight), weight_r = clip_weight(rules, r.log_weight);
    RowTerms out;
    out.logit = weight_c.value * c.psi - weight_r.value * r.psi - margin;
    const ValueAndDerivative f = link(rules.options, out.logit);
    out.loss = f.value;
    out.chosen.psi = f.derivative * weight_c.value;
    out.rejected.psi = -f.derivative * weight_r.value;
    if (rules.options.weight_gradient) {
      out.chosen.lambda = f.derivative * c.psi * weight_c.derivative;
      out.rejected.lambda = -f.derivative * r.psi * weight_r.derivative;
    }
    out.clipped = weight_c.clipped + weight_r.clipped;
    return out;
  }

  SDPO_HD static RowTerms by_pair(const ObjectiveRules& rules, const BranchTerms& c, const BranchTerms& r,
                                  double margin) {
    const PairedWeight pair = pair_weight(rules, c, r);
    const double difference = c.psi - r.psi;
    RowTerms out;
    out.logit = pair.weight.value * difference - margin;
    const ValueAndDerivative f = link(rules.options, out.logit);
    out.loss = f.value;
    out.chosen.psi = f.derivative * pair.weight.value;
    out.rejected.psi = -out.chosen.psi;
    if (rules.options.weight_gradient) {
      const double slope = f.derivative * difference * pair.weight.derivative;
      out.chosen.lambda = pair.share_chosen * slope;
      out.rejected.lambda = pair.share_rejected * slope;
    }
    out.clipped = pair.weight.clipped;
    return out;
  }
};

// DSPO (Direct Score Preference Optimization): the winner's score is pulled towards a target that the preference shifts
// by s h.
//   L = mean (d_c - s h_c)^2 = m_c - s (delta_c + q_c) + s^2 q_c          s = beta sigma(-(psi_c - psi_r))
// since mean d h = (delta + q)/2. The gradient flows through s as well: ds/dz = -beta sigma(z) sigma(-z).
struct Dspo {
  static constexpr int kWeights = 0;
  static constexpr bool kReference = true, kLink = false, kDrift = true;
  SDPO_HD static RowTerms evaluate(const ObjectiveRules& rules, const BranchTerms& c, const BranchTerms& r, double) {
    const ObjectiveOptions& options = rules.options;
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
  static constexpr bool kReference = true, kLink = false, kDrift = false;
  SDPO_HD static RowTerms evaluate(const ObjectiveRules& rules, const BranchTerms& c, const BranchTerms& r, double) {
    const ObjectiveOptions& options = rules.options;
    RowTerms out;
    const double z = c.psi - r.psi;
    const double p = sigmoid(z), rest = sigmoid(-z);
    const double log_right = elementary::log1p(-options.dmpo_alpha), log_wrong = elementary::log(options.dmpo_alpha);
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
  const double inverse = 1 / elementary::expm1(x);  // 0 where the exponential overflows
  return {x * inverse, (1 - x * (1 + inverse)) * inverse};
}

// MaPO (Margin-aware Preference Optimization, arXiv 2406.06424): no reference; the winner's error and a margin of odds.
//   L = m_c - beta log sigma(z)          z = T (phi(s m_c) - phi(s m_r))
struct Mapo {
  static constexpr int kWeights = 0;
  static constexpr bool kReference = false, kLink = false, kDrift = false;
  SDPO_HD static RowTerms evaluate(const ObjectiveRules& rules, const BranchTerms& c, const BranchTerms& r, double) {
    const ObjectiveOptions& options = rules.options;
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

// Linear-DPO (arXiv 2605.21123): L = sg[min(max(1/2 - 0.4 z, eta), 1 - eta)] (m_c - m_r)          z = psi_c - psi_r
// The factor is sigma(-z) made linear and bounded; no gradient flows through it.
struct LinearDpo {
  static constexpr int kWeights = 0;
  static constexpr bool kReference = true, kLink = false, kDrift = false;
  SDPO_HD static RowTerms evaluate(const ObjectiveRules& rules, const BranchTerms& c, const BranchTerms& r, double) {
    const double floor = rules.options.linear_floor;
    RowTerms out;
    out.logit = c.psi - r.psi;
    const double line = 0.5 - 0.4 * out.logit;
    const double factor = line < floor ? floor : line > 1 - floor ? 1 - floor : line;  // NaN stays NaN
    out.loss = factor * (c.m - r.m);
    out.chosen.m = factor;
    out.rejected.m = -factor;
    return out;
  }
};

// ---- What objectives read, for callers that refuse what would not be used

struct ObjectiveTraits {
  int weights;
  bool reference, link, drift;
};

SDPO_HD inline ObjectiveTraits traits_of(Objective objective) {
  switch (objective) {
#define SDPO_CASE(id, name, T) \
  case Objective::id:          \
    return {T::kWeights, T::kReference, T::kLink, T::kDrift};
    SDPO_OBJECTIVES(SDPO_CASE)
#undef SDPO_CASE
  }
  return {};
}

// Whether the objective itself uses a column; timestepWeighting 'elbo', window and anchors are the options' own affair.
inline bool reads_column(Objective objective, RowInput::Index column) {
  const ObjectiveTraits traits = traits_of(objective);
  switch (column) {
    case RowInput::omegaChosen:
    case RowInput::omegaRejected:
    case RowInput::offsetChosen:
    case RowInput::offsetRejected:
    case RowInput::noiseChosen:
    case RowInput::noiseRejected:
    case RowInput::maskThreshold:
      return traits.weights > 0;
    case RowInput::betaScaleChosen:
    case RowInput::betaScaleRejected:
      return traits.reference;
    case RowInput::margin:
      return traits.link;
    default:
      return true;
  }
}

SDPO_HD inline bool reads_omega(const ObjectiveOptions& options) {
  return traits_of(options.objective).weights > 0 || options.timestep_weighting == TimestepWeighting::elbo;
}

// How many weights the clip looks at in one row.
SDPO_HD inline int weights_per_row(const ObjectiveOptions& options) {
  const int weights = traits_of(options.objective).weights;
  return weights == 2 && options.pair_weight != PairWeight::automatic ? 1 : weights;
}

SDPO_HD inline bool has_drift_gradient(const ObjectiveOptions& options) {
  return traits_of(options.objective).drift || options.kl_weight != 0;
}

}  // namespace sdpo
