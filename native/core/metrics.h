// The batch from its rows: loss and means, in row order, so that the sums have one order on every backend.
#pragma once

#include "objectives.h"
#include "problem.h"

namespace sdpo {

// What a row puts into a metric. Its outputs are looked up, not branched on: on a device, threads with different
// metrics then read at the same time, and a thread many rows.
SDPO_HD inline double metric_of_row(int metric, const double* outputs, int64_t rows, int64_t row) {
  const bool pair = metric == Metric::implicitAccuracy || metric == Metric::rewardMargin;
  const int field = pair                                     ? RowOutput::rewardChosen
                    : metric == Metric::batchLoss            ? RowOutput::loss
                    : metric == Metric::maskFraction         ? RowOutput::mask
                    : metric == Metric::clipFraction         ? RowOutput::clipped
                    : metric == Metric::logRatioClipFraction ? RowOutput::logRatioClipped
                    : metric == Metric::nonFiniteRows        ? RowOutput::nonFinite
                                                             : metric - Metric::loss + RowOutput::loss;
  const double value = outputs[field * rows + row];
  const double margin = value - outputs[(pair ? RowOutput::rewardRejected : field) * rows + row];
  const double accuracy = margin > 0 ? 1 : margin < 0 ? 0 : margin == 0 ? 0.5 : margin;  // NaN: there is no reward
  return metric == Metric::maskFraction       ? 1 - value
         : metric == Metric::implicitAccuracy ? accuracy
         : metric == Metric::rewardMargin     ? margin
                                              : value;
}

// A metric from what its rows put in, in their order.
class MetricSum {
 public:
  SDPO_HD MetricSum(int metric, const ObjectiveOptions& options)
      : metric_(metric),
        per_row_(metric == Metric::clipFraction           ? weights_per_row(options)
                 : metric == Metric::logRatioClipFraction ? (traits_of(options.objective).reference ? 2 : 0)
                                                          : 0),
        whole_(metric == Metric::batchLoss || metric == Metric::clipFraction ||
               metric == Metric::logRatioClipFraction || metric == Metric::nonFiniteRows) {}

  SDPO_HD void add(double value) {
    const bool counted = whole_ || is_finite(value);
    if (counted) sum_ += value;
    count_ += whole_ ? per_row_ : counted;
  }

  SDPO_HD double value(double denominator) const {
    if (metric_ == Metric::batchLoss) return sum_ / denominator;
    if (metric_ == Metric::nonFiniteRows) return sum_;
    if (count_ > 0) return sum_ / static_cast<double>(count_);
    return whole_ ? 0 : NAN;
  }

 private:
  int metric_, per_row_;
  bool whole_;  // every row takes part; otherwise those that have the value
  double sum_ = 0;
  int64_t count_ = 0;
};

SDPO_HD inline double batch_metric(int metric, const ObjectiveOptions& options, double denominator,
                                   const double* outputs, int64_t rows) {
  MetricSum sum(metric, options);
  for (int64_t row = 0; row < rows; ++row) sum.add(metric_of_row(metric, outputs, rows, row));
  return sum.value(denominator);
}

// The moments of a row from those of its parts: each is a mean over elements, so sums over all of them divided by all.
// `parts` are row outputs of the same rows, of which `out` may be one. delta and its kin are not formed of differences,
// so nothing cancels.
inline void combine_moments(int64_t rows, int64_t row, int64_t count, const double* const* parts, double* out) {
  // Each mean with the elements it is over. Where the mean over pairs of elements is known there is one weighting.
  struct Mean {
    RowOutput::Index field, elements;
  };
  constexpr Mean kMeans[] = {{RowOutput::errorChosen, RowOutput::elementSumChosen},
                             {RowOutput::deltaChosen, RowOutput::elementSumChosen},
                             {RowOutput::driftChosen, RowOutput::elementSumChosen},
                             {RowOutput::errorRejected, RowOutput::elementSumRejected},
                             {RowOutput::deltaRejected, RowOutput::elementSumRejected},
                             {RowOutput::driftRejected, RowOutput::elementSumRejected},
                             {RowOutput::cross, RowOutput::elementSumChosen}};
  const auto at = [&](const double* outputs, int field) { return outputs[field * rows + row]; };
  const auto total = [&](RowOutput::Index field) {
    double elements = 0;
    for (int64_t k = 0; k < count; ++k) elements += at(parts[k], field);
    return elements;
  };
  const double chosen = total(RowOutput::elementSumChosen), rejected = total(RowOutput::elementSumRejected);
  for (const Mean& mean : kMeans) {
    double sum = 0;
    for (int64_t k = 0; k < count; ++k) {
      const double n = at(parts[k], mean.elements);
      if (n > 0) sum += n * at(parts[k], mean.field);
    }
    out[mean.field * rows + row] = sum / (mean.elements == RowOutput::elementSumChosen ? chosen : rejected);
  }
  out[RowOutput::elementSumChosen * rows + row] = chosen;
  out[RowOutput::elementSumRejected * rows + row] = rejected;
  out[RowOutput::referenceErrorChosen * rows + row] = at(out, RowOutput::errorChosen) - at(out, RowOutput::deltaChosen);
  out[RowOutput::referenceErrorRejected * rows + row] =
      at(out, RowOutput::errorRejected) - at(out, RowOutput::deltaRejected);
}

}  // namespace sdpo
