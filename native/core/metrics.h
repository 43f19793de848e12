// The batch from its rows: loss and means, in row order, so that the sums have one order on every backend.
#pragma once

#include "objectives.h"
#include "problem.h"

namespace sdpo {

// Kept apart from the rows so that a device can run it in one thread, or split the metrics over threads: each depends
// on nothing else.
SDPO_HD inline double batch_metric(int metric, const ObjectiveOptions& options, double denominator,
                                   const double* outputs, int64_t rows) {
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
        count += weights_per_row(options);
        continue;
      case Metric::logRatioClipFraction:
        sum += at(RowOutput::logRatioClipped, i);
        count += traits_of(options.objective).reference ? 2 : 0;
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
  if ((metric == Metric::clipFraction || metric == Metric::logRatioClipFraction) && count == 0) return 0;
  return count > 0 ? sum / static_cast<double>(count) : NAN;
}

// The moments of a row from those of its parts: each is a mean over elements, so sums over all of them divided by all.
// `parts` are row outputs of the same rows. delta and its kin are not formed of differences, so nothing cancels.
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
  for (const RowOutput::Index field : {RowOutput::elementSumChosen, RowOutput::elementSumRejected}) {
    double elements = 0;
    for (int64_t k = 0; k < count; ++k) elements += at(parts[k], field);
    out[field * rows + row] = elements;
  }
  for (const Mean& mean : kMeans) {
    double sum = 0;
    for (int64_t k = 0; k < count; ++k) {
      const double n = at(parts[k], mean.elements);
      if (n > 0) sum += n * at(parts[k], mean.field);
    }
    out[mean.field * rows + row] = sum / at(out, mean.elements);
  }
  out[RowOutput::referenceErrorChosen * rows + row] = at(out, RowOutput::errorChosen) - at(out, RowOutput::deltaChosen);
  out[RowOutput::referenceErrorRejected * rows + row] =
      at(out, RowOutput::errorRejected) - at(out, RowOutput::deltaRejected);
}

}  // namespace sdpo
