// The plain description of one call, shared by every backend: pointers, sizes, strides, dtypes, per-row scalars and
// where results go.
#pragma once

#include <atomic>
#include <cstdint>

#include "columns.h"
#include "dtypes.h"
#include "options.h"

namespace sdpo {

// ---- What a call gives per row, float64, stored field by field: field f of row i is at [f * rows + i].

// The public statistics first, in the order of the API; then what the passes hand to each other (delta, coefficients a
// and b of the batch loss, mean of d_c*d_r, D or the sum of element weights of each branch), the numbers of weights and
// of log-ratios that a clip changed, and 1 where the row was not finite. Without the moments pass, the element sums are
// what the caller says that a whole row has, or 0 for what the tensors of this call have.
// clang-format off
#define SDPO_ROW_OUTPUTS(X)                                                                                    \
  X(loss) X(logit) X(mask) X(rewardChosen) X(rewardRejected) X(logWeightChosen) X(logWeightRejected)           \
  X(weightChosen) X(weightRejected) X(errorChosen) X(errorRejected) X(referenceErrorChosen)                    \
  X(referenceErrorRejected) X(driftChosen) X(driftRejected) X(deltaChosen) X(deltaRejected) X(aChosen)         \
  X(aRejected) X(bChosen) X(bRejected) X(cross) X(elementSumChosen) X(elementSumRejected) X(clipped)           \
  X(logRatioClipped) X(nonFinite)
// clang-format on

constexpr int kRowStatistics = 15;  // how many of the row outputs are public statistics with a mean in the metrics

// Results of a batch: the loss, the mean of each statistic over its finite entries, and the counts.
// clang-format off
#define SDPO_METRICS(X)                                                                                        \
  X(batchLoss) X(loss) X(logit) X(mask) X(rewardChosen) X(rewardRejected) X(logWeightChosen)                   \
  X(logWeightRejected) X(weightChosen) X(weightRejected) X(errorChosen) X(errorRejected)                       \
  X(referenceErrorChosen) X(referenceErrorRejected) X(driftChosen) X(driftRejected) X(implicitAccuracy)        \
  X(rewardMargin) X(maskFraction) X(clipFraction) X(logRatioClipFraction) X(nonFiniteRows)
// clang-format on

SDPO_FIELDS(RowOutput, SDPO_ROW_OUTPUTS)
SDPO_FIELDS(Metric, SDPO_METRICS)

// ---- Tensors

// Where memory lies. Every pointer of a problem group says so: `tensors` for element data, `scalars` for row
// outputs and metrics; a row column says by itself.
#define SDPO_LOCATIONS(X) X(host, "host") X(cuda, "cuda")
struct Location {
  enum Kind : uint8_t { SDPO_LOCATIONS(SDPO_ENUM_ENTRY) } kind = host;
  int ordinal = 0;  // device number
};
constexpr const char* kLocationNames[] = {SDPO_LOCATIONS(SDPO_NAME_ENTRY)};
template <>
struct NamesOf<Location::Kind> {
  static constexpr size_t count = sizeof kLocationNames / sizeof(const char*);
};

// `rows` runs of `size` contiguous elements; consecutive rows start `row_stride` elements apart (0: one row serves
// all).
struct TensorView {
  const void* data = nullptr;
  int64_t row_stride = 0;
  DType dtype = DType::float32;

  const void* at(int64_t row, int64_t element) const {
    return static_cast<const char*>(data) + (row * row_stride + element) * static_cast<int64_t>(dtype_size(dtype));
  }
};

struct MutableTensorView {
  void* data = nullptr;
  int64_t row_stride = 0;
  DType dtype = DType::float32;

  void* at(int64_t row, int64_t element) const {
    return static_cast<char*>(data) + (row * row_stride + element) * static_cast<int64_t>(dtype_size(dtype));
  }
};

struct Branch {
  TensorView policy;
  TensorView reference;  // data == nullptr: the column referenceError stands in and the drift does not exist
  TensorView target;
  MutableTensorView gradient;  // data == nullptr: not wanted
};

// ---- The call

struct Pass {
  enum Bits : int { moments = 1, objective = 2, gradients = 4, cross = 8 };
};

struct Problem {
  int passes = Pass::moments | Pass::objective | Pass::gradients;
  int64_t rows = 0;
  int64_t size = 0;  // D, elements of a row
  Branch chosen, rejected;
  TensorView element_weights;           // data == nullptr: all one; row_stride 0: one row of D for all
  TensorView rejected_element_weights;  // of rejected alone; data == nullptr: `element_weights` are of both branches
  Location tensors, scalars;
  RowColumns columns;
  double* row_outputs = nullptr;  // [RowOutput::count][rows]
  double* metrics = nullptr;      // [Metric::count]
  ObjectiveOptions options;
  double denominator = 1;                       // the batch loss is the sum over rows divided by this
  double gradient_scale = 1;                    // multiplies the gradient coefficients, before any rounding
  int threads = 0;                              // CPU: 0 = default
  void* stream = nullptr;                       // CUDA: cudaStream_t
  const std::atomic<int32_t>* abort = nullptr;  // polled; non-zero ends the call early

  const TensorView& weights_of(bool of_rejected) const {
    return of_rejected && rejected_element_weights.data != nullptr ? rejected_element_weights : element_weights;
  }
};

// ---- How a call ends

#define SDPO_STATUSES(X) X(ok) X(non_finite) X(element_weights) X(aborted) X(out_of_memory) X(device)
enum class Status : int {
#define SDPO_STATUS_ENTRY(id) id,
  SDPO_STATUSES(SDPO_STATUS_ENTRY)
#undef SDPO_STATUS_ENTRY
};
constexpr const char* kStatusNames[] = {SDPO_STATUSES(SDPO_FIELD_NAME)};

// Which value a failure is about: row, that its arithmetic overflows although its tensors are finite; gradient, that
// its gradient does once it is rounded; batch, that the sum over rows does. `tensor` follows NonFiniteSource in
// lib/native/errors.ts.
#define SDPO_FAILURE_TENSORS(X) X(policy) X(reference) X(target) X(referenceError) X(row) X(gradient) X(batch)
enum class FailureTensor : int { SDPO_FAILURE_TENSORS(SDPO_FIELD_ENTRY) };
constexpr const char* kFailureTensorNames[] = {SDPO_FAILURE_TENSORS(SDPO_FIELD_NAME)};

struct Failure {
  int64_t row = -1;
  int branch = 0;  // 0 chosen, 1 rejected
  FailureTensor tensor = FailureTensor::row;
  int64_t element = -1;
};

}  // namespace sdpo
