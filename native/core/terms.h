// From the numbers of a row to psi and lambda of its branches, for host and device compilers: the only place where
// numbers per row and options become scales.
//
// With l the log-ratio of a branch (docs/mathematics.md, sections 2 to 5):
//   l      = -delta / 2 (constant) | -omega delta (elbo)          clamped to the log-ratio clip
//   psi    = beta s l                                             s = betaScale
//   lambda = kappa (offset - omega (m | delta | m - delta) + sqrt(2 omega m / D) xi)
// and with the 'sum' reduction omega, offset and noise times D (or the branch's sum of element weights).
#pragma once

#include "objectives.h"
#include "problem.h"
#include "sums.h"

namespace sdpo {

// ---- What a row is made of

struct BranchMoments {
  double m = 0;      // mean squared error of the policy
  double delta = 0;  // m - r, accumulated without cancellation
  double q = 0;      // mean squared distance to the reference; NaN without a reference tensor
};

struct BranchScales {
  double reward;      // beta s
  double log_ratio;   // 1/2 or omega: l = -log_ratio delta
  double psi;         // beta s log_ratio
  double log_weight;  // kappa omega
  double offset, noise;
  bool no_psi;      // omega is infinite and psi needs it
  bool no_density;  // omega is infinite: there is no density ratio
};

// D, or the sum of the element weights, of each branch.
struct RowSizes {
  double chosen, rejected;
};

struct RowScalars {
  BranchScales chosen, rejected;
  double margin, log_mask_floor, row_weight;
  bool wanted;  // kept by the caller and within the window
};

// ---- From columns to scales

SDPO_HD inline BranchScales branch_scales(const ObjectiveOptions& options, double omega, double beta_scale,
                                          double offset, double noise, double size) {
  const bool elbo = options.timestep_weighting == TimestepWeighting::elbo;
  const double reduce = options.log_ratio_reduction == LogRatioReduction::sum ? size : 1;
  const double kappa = options.weight_sharpness;
  BranchScales out;
  out.reward = options.beta * beta_scale;
  out.log_ratio = elbo ? omega * reduce : 0.5;
  out.psi = elbo ? options.beta * omega * beta_scale * reduce : options.beta / 2 * beta_scale;
  out.log_weight = kappa * omega * reduce;
  out.no_density = is_infinite(omega);
  out.no_psi = elbo && out.no_density;
  out.offset = kappa * offset * reduce;
  out.noise = noise != 0 ? kappa * sqrt(2 * omega) * noise * reduce : 0;
  return out;
}

// The scalars of a row. A value that a column may not have makes the row's weight NaN, so that the row counts as not
// finite whatever mask or objective would have made of the value.
SDPO_HD inline RowScalars load_row(const RowColumns& columns, const ObjectiveOptions& options, int64_t row,
                                   const RowSizes& size) {
  // All of them before the first is looked at, so that on a device they come together.
  double value[RowInput::count];
  for (int field = 0; field < RowInput::count; ++field) value[field] = column_value(columns.fields[field], row);
  bool good = true;
#define SDPO_CHECK(id, fallback, what) good = good && accepts(RowCheck::what, value[RowInput::id]);
  SDPO_ROW_INPUTS(SDPO_CHECK)
#undef SDPO_CHECK
  const bool needed = reads_omega(options);
  double omega[] = {value[RowInput::omegaChosen], value[RowInput::omegaRejected]};
  const double timestep[] = {value[RowInput::timestepChosen], value[RowInput::timestepRejected]};
  bool wanted = value[RowInput::keep] != 0;
  for (int branch = 0; branch < 2; ++branch) {
    const int field = branch == 0 ? RowInput::omegaChosen : RowInput::omegaRejected;
    if (looks_up(columns, field)) omega[branch] = table_omega(columns, timestep[branch]);
    // Else it is a statistic's only, and its absence shows there.
    good = good && (!needed || omega[branch] >= 0);
    wanted = wanted && timestep[branch] >= options.window_low && timestep[branch] <= options.window_high;
  }
  RowScalars out;
  out.chosen = branch_scales(options, omega[0], value[RowInput::betaScaleChosen], value[RowInput::offsetChosen],
                             value[RowInput::noiseChosen], size.chosen);
  out.rejected = branch_scales(options, omega[1], value[RowInput::betaScaleRejected], value[RowInput::offsetRejected],
                               value[RowInput::noiseRejected], size.rejected);
  out.margin = value[RowInput::margin];
  out.log_mask_floor = elementary::log(value[RowInput::maskThreshold]);
  out.row_weight = good ? value[RowInput::rowWeight] : NAN;
  out.wanted = wanted;
  return out;
}

// ---- From moments to psi and lambda

struct BranchResult {
  BranchTerms terms;
  double psi_slope = 0;     // d psi / d delta
  double lambda_slope = 0;  // d lambda / d m + d lambda / d delta
  int log_ratio_clipped = 0;
};

SDPO_HD inline BranchResult branch_terms(const ObjectiveRules& rules, const BranchScales& s, const BranchMoments& x,
                                         const double& size) {
  const ObjectiveOptions& options = rules.options;
  BranchResult out;
  BranchTerms& terms = out.terms;
  terms.m = x.m;
  terms.delta = x.delta;
  terms.q = x.q;
  if (s.no_psi) {
    terms.psi = NAN;
  } else {
    const double log_ratio = -s.log_ratio * x.delta;
    terms.psi = -s.psi * x.delta;
    out.psi_slope = -s.psi;
    // Derivative 0 outside of the clip and exactly on its edges.
    if (log_ratio <= rules.log_ratio_low || log_ratio >= rules.log_ratio_high) {
      out.log_ratio_clipped = log_ratio < rules.log_ratio_low || log_ratio > rules.log_ratio_high ? 1 : 0;
      terms.psi = s.reward * (log_ratio <= rules.log_ratio_low ? rules.log_ratio_low : rules.log_ratio_high);
      out.psi_slope = 0;
    }
  }
  if (s.no_density) {  // tested before multiplying, since the moment may be 0
    terms.lambda = -INFINITY;
  } else {
    double moment = 0, by_m = 0, by_delta = 0;
    switch (options.weight_ratio) {
      case WeightRatio::policy_data:
        moment = x.m;
        by_m = -s.log_weight;
        break;
      case WeightRatio::policy_reference:
        moment = x.delta;
        by_delta = -s.log_weight;
        break;
      case WeightRatio::reference_data:  // does not depend on the policy: the two derivatives cancel in A
        moment = x.m - x.delta;
        by_m = -s.log_weight;
        by_delta = s.log_weight;
        break;
    }
    terms.lambda = s.offset - s.log_weight * moment;
    if (s.noise != 0) {
      terms.lambda += s.noise * sqrt(x.m / size);
      if (x.m > 0) by_m += 0.5 * s.noise / sqrt(x.m * size);
    }
    out.lambda_slope = by_m + by_delta;
  }
  terms.log_weight = options.weight_exponent == 0 ? 0 : options.weight_exponent * terms.lambda;
  return out;
}

// A of one branch by the chain rule.
SDPO_HD inline double coefficient_a(const Partials& p, const BranchResult& branch) {
  double a = p.m + p.delta;
  if (p.psi != 0) a += p.psi * branch.psi_slope;
  if (p.lambda != 0) a += p.lambda * branch.lambda_slope;
  return a;
}

// ---- The safeguard of Diffusion-SDPO (arXiv 2511.03317): a factor on the rejected branch's gradient, with x = mean
// d_c d_r of a pair, or with the sums of m_c and x over the batch. Values do not change, only A and B.
//   factor = min(1, (1-mu) m_c / x) where x > 0, else 1
// The two gradients meet in the parameters. Where those move both predictions alike, the winner's error changes to
// first order by -(4 eta/D) (A_c m_c + factor A_r x), and with |A_r| <= |A_c| the second term takes at most the share
// 1-mu away from the first.
SDPO_HD inline double safeguard_factor(double mu, double m_c, double x) {
  if (!(x > 0)) return 1;
  const double factor = (1 - mu) * m_c / x;
  return factor < 1 ? factor : 1;
}

// The factor of a batch, from the moments of all rows that are finite, in row order.
SDPO_HD inline double batch_safeguard_factor(double mu, const double* outputs, int64_t rows) {
  double m_c = 0, x = 0;
  for (int64_t i = 0; i < rows; ++i) {
    const double m = outputs[RowOutput::errorChosen * rows + i], cross = outputs[RowOutput::cross * rows + i];
    if (!is_finite(m) || !is_finite(cross)) continue;
    m_c += m;
    x += cross;
  }
  return safeguard_factor(mu, m_c, x);
}

}  // namespace sdpo
