// The options of a loss, stated once: the struct, the header that crosses from other languages, the defaults of C and
// the exported tables are all made of the list below.
#pragma once

#include <cmath>
#include <type_traits>

#include "lists.h"

namespace sdpo {

enum class Objective : uint8_t;  // objectives.h, beside the formulas

#define SDPO_LINKS(X) X(sigmoid, "sigmoid") X(hinge, "hinge") X(ipo, "ipo")
// automatic: one weight per branch for sdpo, geometric for dpo-cm.
// clang-format off
#define SDPO_PAIR_WEIGHTS(X) \
  X(automatic, "automatic") X(geometric, "geometric") X(min, "min") X(max, "max") X(product, "product")
#define SDPO_WEIGHT_RATIOS(X) \
  X(policy_data, "policy/data") X(policy_reference, "policy/reference") X(reference_data, "reference/data")
// clang-format on
#define SDPO_TIMESTEP_WEIGHTINGS(X) X(constant, "constant") X(elbo, "elbo")
#define SDPO_LOG_RATIO_REDUCTIONS(X) X(mean, "mean") X(sum, "sum")
#define SDPO_SCOPES(X) X(all, "all") X(masked, "masked")
#define SDPO_SAFEGUARD_SCOPES(X) X(pair, "pair") X(batch, "batch")
#define SDPO_NON_FINITE(X) X(fail, "throw") X(skip, "skip") X(propagate, "propagate")

SDPO_NAMED_ENUM(Link, SDPO_LINKS)
SDPO_NAMED_ENUM(PairWeight, SDPO_PAIR_WEIGHTS)
SDPO_NAMED_ENUM(WeightRatio, SDPO_WEIGHT_RATIOS)
SDPO_NAMED_ENUM(TimestepWeighting, SDPO_TIMESTEP_WEIGHTINGS)
SDPO_NAMED_ENUM(LogRatioReduction, SDPO_LOG_RATIO_REDUCTIONS)
SDPO_NAMED_ENUM(Scope, SDPO_SCOPES)
SDPO_NAMED_ENUM(SafeguardScope, SDPO_SAFEGUARD_SCOPES)
SDPO_NAMED_ENUM(NonFinite, SDPO_NON_FINITE)

// What an option that is a number may be.
struct OptionRange {
  double low, high;
  bool low_open, high_open;

  constexpr bool holds(double x) const { return (low_open ? x > low : x >= low) && (high_open ? x < high : x <= high); }
};
constexpr OptionRange closed_range(double low, double high) { return {low, high, false, false}; }
constexpr OptionRange half_open_range(double low, double high) { return {low, high, false, true}; }
constexpr OptionRange open_range(double low, double high) { return {low, high, true, true}; }
constexpr OptionRange kNames = {};  // of an enumeration, whose names say it

// X(type, field, "name", default, range). A number is a double, a choice an enumeration; an option of two numbers is
// two fields. The fields of sdpo_options (c/sdpo.h) have the same names in the same order.
// clang-format off
#define SDPO_OPTIONS(X)                                                                                             \
  X(Objective, objective, "objective", Objective{}, kNames)                                                         \
  X(Link, link, "link", Link::sigmoid, kNames)                                                                      \
  X(PairWeight, pair_weight, "pairWeight", PairWeight::automatic, kNames)                                           \
  X(WeightRatio, weight_ratio, "weightRatio", WeightRatio::policy_data, kNames)                                     \
  X(TimestepWeighting, timestep_weighting, "timestepWeighting", TimestepWeighting::constant, kNames)                \
  X(LogRatioReduction, log_ratio_reduction, "logRatioReduction", LogRatioReduction::mean, kNames)                   \
  X(Scope, sft_scope, "sftScope", Scope::all, kNames)                                                               \
  X(Scope, kl_scope, "klScope", Scope::all, kNames)                                                                 \
  X(SafeguardScope, safeguard_scope, "safeguardScope", SafeguardScope::pair, kNames)                                \
  X(NonFinite, non_finite, "nonFinite", NonFinite::fail, kNames)                                                    \
  X(bool, weight_gradient, "weightGradient", false, closed_range(0, 1))                                             \
  X(double, beta, "beta", 1, open_range(0, INFINITY))                                                               \
  X(double, label_smoothing, "labelSmoothing", 0, closed_range(0, 0.5))                                             \
  X(double, clip_low, "clipLow", 0.9, half_open_range(0, INFINITY))                                                 \
  X(double, clip_high, "clipHigh", 1.1, closed_range(0, INFINITY))                                                  \
  X(double, weight_sharpness, "weightSharpness", 1, open_range(0, INFINITY))                                        \
  X(double, weight_exponent, "weightExponent", 1, open_range(-INFINITY, INFINITY))                                  \
  X(double, log_ratio_clip_low, "logRatioClipLow", 0, closed_range(0, INFINITY))                                    \
  X(double, log_ratio_clip_high, "logRatioClipHigh", INFINITY, closed_range(0, INFINITY))                           \
  X(double, window_low, "windowLow", -INFINITY, closed_range(-INFINITY, INFINITY))                                  \
  X(double, window_high, "windowHigh", INFINITY, closed_range(-INFINITY, INFINITY))                                 \
  X(double, sft_weight, "sftWeight", 0, half_open_range(0, INFINITY))                                               \
  X(double, kl_weight, "klWeight", 0, half_open_range(0, INFINITY))                                                 \
  X(double, safeguard, "safeguard", -1, closed_range(-INFINITY, 1)) /* negative: off */                             \
  X(double, dmpo_alpha, "dmpoAlpha", 0.01, open_range(0, 1))                                                        \
  X(double, mapo_scale, "mapoScale", 0.5, open_range(0, INFINITY))                                                  \
  X(double, mapo_steps, "mapoSteps", 1000, open_range(0, INFINITY))                                                 \
  X(double, linear_floor, "linearFloor", 0.01, half_open_range(0, 0.5))
// clang-format on

struct ObjectiveOptions {
#define SDPO_OPTION_FIELD(Type, field, name, value, range) Type field = value;
  SDPO_OPTIONS(SDPO_OPTION_FIELD)
#undef SDPO_OPTION_FIELD
};

constexpr const char* kOptionNames[] = {
#define SDPO_OPTION_NAME(Type, field, name, value, range) name,
    SDPO_OPTIONS(SDPO_OPTION_NAME)
#undef SDPO_OPTION_NAME
};
constexpr int kOptionCount = sizeof kOptionNames / sizeof(const char*);

// An option from the number that stands for it; false where it stands for none.
template <class T>
bool read_option(double number, T* out) {
  if constexpr (std::is_same_v<T, double>) {
    *out = number;
  } else if constexpr (std::is_same_v<T, bool>) {
    *out = number != 0;
  } else {
    if (!(number >= 0 && number < static_cast<double>(NamesOf<T>::count))) return false;
    *out = static_cast<T>(static_cast<int>(number));
  }
  return true;
}

}  // namespace sdpo
