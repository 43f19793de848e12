// The plain description of one call, shared by every backend: pointers, sizes, strides, dtypes, per-row scalars and
// where results go.
#pragma once

#include <atomic>
#include <cstdint>

#include "dtypes.h"

namespace sdpo {

// ---- Closed sets of names. The position in a list is the number that crosses the binding; lib/ and test/ hold the
// same lists and a test compares.

// Third: the struct in objectives.h with the loss and its derivatives.
// clang-format off
#define SDPO_OBJECTIVES(X)                        \
  X(diffusion_dpo, "diffusion-dpo", DiffusionDpo) \
  X(dpo_cm, "dpo-cm", DpoCm)                      \
  X(sdpo, "sdpo", Sdpo)                           \
  X(dspo, "dspo", Dspo)                           \
  X(dmpo, "dmpo", Dmpo)                           \
  X(mapo, "mapo", Mapo)
// clang-format on
#define SDPO_LINKS(X) X(sigmoid, "sigmoid") X(hinge, "hinge") X(ipo, "ipo")
#define SDPO_PAIR_WEIGHTS(X) X(geometric, "geometric") X(min, "min") X(max, "max") X(product, "product")
// clang-format off
#define SDPO_WEIGHT_RATIOS(X) \
  X(policy_data, "policy/data") X(policy_reference, "policy/reference") X(reference_data, "reference/data")
// clang-format on
#define SDPO_SCOPES(X) X(all, "all") X(masked, "masked")
#define SDPO_NON_FINITE(X) X(fail, "throw") X(skip, "skip") X(propagate, "propagate")

#define SDPO_ENUM_ENTRY(id, ...) id,
#define SDPO_NAME_ENTRY(id, name, ...) name,
#define SDPO_NAMED_ENUM(Type, LIST)                    \
  enum class Type : uint8_t { LIST(SDPO_ENUM_ENTRY) }; \
  constexpr const char* k##Type##Names[] = {LIST(SDPO_NAME_ENTRY)};

SDPO_NAMED_ENUM(Objective, SDPO_OBJECTIVES)
SDPO_NAMED_ENUM(Link, SDPO_LINKS)
SDPO_NAMED_ENUM(PairWeight, SDPO_PAIR_WEIGHTS)
SDPO_NAMED_ENUM(WeightRatio, SDPO_WEIGHT_RATIOS)
SDPO_NAMED_ENUM(Scope, SDPO_SCOPES)
SDPO_NAMED_ENUM(NonFinite, SDPO_NON_FINITE)

// ---- Scalars of a row, float64, stored field by field: field f of row i is at [f * rows + i].

// psiScale: beta/2 or beta*omega (infinite: the row has no finite psi and is removed). weightScale: kappa*omega
// (infinite: log weight is -infinity). weightOffset: kappa*offset. weightNoise: kappa*sqrt(2*omega)*xi. referenceError:
// read only without a reference tensor.
// clang-format off
#define SDPO_ROW_INPUTS(X)                                                                                     \
  X(psiScaleChosen) X(psiScaleRejected) X(weightScaleChosen) X(weightScaleRejected) X(weightOffsetChosen)      \
  X(weightOffsetRejected) X(weightNoiseChosen) X(weightNoiseRejected) X(referenceErrorChosen)                  \
  X(referenceErrorRejected) X(logMaskFloor) X(logClipLow) X(logClipHigh) X(rowWeight)
// clang-format on

// The public statistics first, in the order of the API; then what the passes hand to each other (delta, coefficients a
// and b of the batch loss, mean of d_c*d_r, sum of element weights or D), the number of clipped weights, and 1 where
// the row was not finite.
// clang-format off
#define SDPO_ROW_OUTPUTS(X)                                                                                    \
  X(loss) X(logit) X(mask) X(rewardChosen) X(rewardRejected) X(logWeightChosen) X(logWeightRejected)           \
  X(weightChosen) X(weightRejected) X(errorChosen) X(errorRejected) X(referenceErrorChosen)                    \
  X(referenceErrorRejected) X(driftChosen) X(driftRejected) X(deltaChosen) X(deltaRejected) X(aChosen)         \
  X(aRejected) X(bChosen) X(bRejected) X(cross) X(elementSum) X(clipped) X(nonFinite)
// clang-format on

constexpr int kRowStatistics = 15;  // how many of the row outputs are public statistics with a mean in the metrics

// Results of a batch: the loss, the mean of each statistic over its finite entries, and the counts.
// clang-format off
#define SDPO_METRICS(X)                                                                                        \
  X(batchLoss) X(loss) X(logit) X(mask) X(rewardChosen) X(rewardRejected) X(logWeightChosen)                   \
  X(logWeightRejected) X(weightChosen) X(weightRejected) X(errorChosen) X(errorRejected)                       \
  X(referenceErrorChosen) X(referenceErrorRejected) X(driftChosen) X(driftRejected) X(implicitAccuracy)        \
  X(rewardMargin) X(maskFraction) X(clipFraction) X(nonFiniteRows)
// clang-format on

#define SDPO_FIELD_ENTRY(id) id,
#define SDPO_FIELD_NAME(id) #id,
#define SDPO_FIELDS(Space, LIST)                       \
  struct Space {                                       \
    enum Index : int { LIST(SDPO_FIELD_ENTRY) count }; \
  };                                                   \
  constexpr const char* k##Space##Names[] = {LIST(SDPO_FIELD_NAME)};

SDPO_FIELDS(RowInput, SDPO_ROW_INPUTS)
SDPO_FIELDS(RowOutput, SDPO_ROW_OUTPUTS)
SDPO_FIELDS(Metric, SDPO_METRICS)

// ---- Tensors

// Where memory lies. Every pointer of a problem group says so: `tensors` for element data, `scalars` for row inputs,
// row outputs and metrics.
struct Location {
  enum Kind : uint8_t { host, cuda } kind = host;
  int ordinal = 0;  // device number
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
  TensorView reference;  // data == nullptr: the row input referenceError stands in and the drift does not exist
  TensorView target;
  MutableTensorView gradient;  // data == nullptr: not wanted
};

// ---- The call

struct ObjectiveOptions {
  Objective objective = Objective::sdpo;
  Link link = Link::sigmoid;
  PairWeight pair_weight = PairWeight::geometric;
  WeightRatio weight_ratio = WeightRatio::policy_data;
  Scope sft_scope = Scope::all;
  Scope kl_scope = Scope::all;
  bool weight_gradient = false;
  bool sum_weight =
      false;  // logRatioReduction 'sum': the log weight is multiplied by D (or by the sum of element weights)
  bool sum_psi = false;  // ... and so is psi, with elbo weighting
  double beta = 1;
  double label_smoothing = 0;
  double sft_weight = 0;
  double kl_weight = 0;
  double safeguard = -1;     // mu of the safeguard on the rejected gradient; negative: off. Needs the cross moment
  double dmpo_alpha = 0.01;  // dmpo: probability of the wrong preference in the target distribution
  double mapo_scale = 0.5;   // mapo: s in phi(s m)
  double mapo_steps = 1000;  // mapo: T, the factor of the margin
};

struct Pass {
  enum Bits : int { moments = 1, objective = 2, gradients = 4, cross = 8 };
};

struct Problem {
  int passes = Pass::moments | Pass::objective | Pass::gradients;
  int64_t rows = 0;
  int64_t size = 0;  // D, elements of a row
  Branch chosen, rejected;
  TensorView element_weights;  // data == nullptr: all one; row_stride 0: one row of D for all
  Location tensors, scalars;
  const double* row_inputs = nullptr;  // [RowInput::count][rows]
  double* row_outputs = nullptr;       // [RowOutput::count][rows]
  double* metrics = nullptr;           // [Metric::count]
  ObjectiveOptions options;
  NonFinite non_finite = NonFinite::fail;
  double denominator = 1;                       // the batch loss is the sum over rows divided by this
  double gradient_scale = 1;                    // multiplies the gradient coefficients, before any rounding
  int threads = 0;                              // CPU: 0 = default
  void* stream = nullptr;                       // CUDA: cudaStream_t
  const std::atomic<int32_t>* abort = nullptr;  // polled; non-zero ends the call early
};

// ---- How a call ends

#define SDPO_STATUSES(X) X(ok) X(non_finite) X(element_weights) X(aborted) X(out_of_memory) X(device)
enum class Status : int {
#define SDPO_STATUS_ENTRY(id) id,
  SDPO_STATUSES(SDPO_STATUS_ENTRY)
#undef SDPO_STATUS_ENTRY
};
constexpr const char* kStatusNames[] = {SDPO_STATUSES(SDPO_FIELD_NAME)};

// Which value a failure is about. `tensor` follows NonFiniteSource in lib/native/errors.ts.
#define SDPO_FAILURE_TENSORS(X) X(policy) X(reference) X(target) X(referenceError) X(row)
enum class FailureTensor : int { SDPO_FAILURE_TENSORS(SDPO_FIELD_ENTRY) };
constexpr const char* kFailureTensorNames[] = {SDPO_FAILURE_TENSORS(SDPO_FIELD_NAME)};

struct Failure {
  int64_t row = -1;
  int branch = 0;  // 0 chosen, 1 rejected
  FailureTensor tensor = FailureTensor::row;
  int64_t element = -1;
};

}  // namespace sdpo
