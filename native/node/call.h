// How JavaScript values become a Problem: the layout of the header and the checks that keep memory safe.
#pragma once

#include <napi.h>

#include "../core/backend.h"

namespace sdpo {

// Arguments of evaluate and evaluateAsync after the four fixed ones (header, rowInputs, rowOutputs, metrics), in this
// order; the abort flag and the stream follow. On the host an operand is a typed array, on a device its address as a
// bigint.
// clang-format off
#define SDPO_OPERANDS(X)                                                                    \
  X(policyChosen) X(referenceChosen) X(targetChosen) X(gradientChosen) X(policyRejected)    \
  X(referenceRejected) X(targetRejected) X(gradientRejected) X(elementWeights)
// clang-format on
SDPO_FIELDS(Operand, SDPO_OPERANDS)

// The header is a Float64Array: these fields, then the dtype of each operand, then the row stride of each operand.
// clang-format off
#define SDPO_HEADER(X)                                                                                      \
  X(passes) X(rows) X(size) X(objective) X(link) X(pairWeight) X(weightRatio) X(sftScope) X(klScope)        \
  X(weightGradient) X(sumWeight) X(sumPsi) X(beta) X(labelSmoothing) X(sftWeight) X(klWeight) X(nonFinite)  \
  X(denominator) X(gradientScale) X(threads) X(safeguard) X(dmpoAlpha) X(mapoScale) X(mapoSteps) X(device)
// clang-format on
SDPO_FIELDS(Header, SDPO_HEADER)
constexpr int kHeaderLength = Header::count + 2 * Operand::count;

// Written behind the metrics when a call fails.
#define SDPO_FAILURE_FIELDS(X) X(row) X(branch) X(tensor) X(element)
SDPO_FIELDS(FailureField, SDPO_FAILURE_FIELDS)
constexpr int kMetricsLength = Metric::count + FailureField::count;

// The memory of a JavaScript typed array; null data for null and undefined.
struct ArrayMemory {
  void* data = nullptr;
  size_t length = 0;
  napi_typedarray_type type = napi_uint8_array;
  bool present = false;
};

ArrayMemory array_memory(const Napi::Value& value);
ArrayMemory array_memory(const Napi::CallbackInfo& info, size_t index);

// Positions of the arguments of evaluate and evaluateAsync.
constexpr size_t kHeaderArgument = 0, kRowInputs = 1, kRowOutputs = 2, kMetrics = 3, kFirstOperand = 4;
constexpr size_t kAbort = kFirstOperand + Operand::count, kStream = kAbort + 1;

// Where memory lies, as a number: 0 is the host, n + 1 is cuda:n. Throws where this build has no backend for it.
Location location(Napi::Env env, double number);

// An address or a stream handle given as a bigint; null and undefined are a null pointer.
void* address(const Napi::Value& value);

// Reads the arguments of evaluate. Row inputs, row outputs and metrics are Float64Arrays, or all three addresses on the
// device of the tensors; then *failure is null, since such a call reports nothing. Throws a Napi::Error for anything
// that would read or write outside of the arrays; everything else was checked in TypeScript.
Problem read_problem(const Napi::CallbackInfo& info, double** failure);

// Ends a call: writes the failure behind the metrics and gives the number of the status.
int report(Status status, const Failure& failure, double* out);

// The element type that a typed array must have to hold a dtype.
bool holds(napi_typedarray_type array, DType dtype);

[[noreturn]] void fail(Napi::Env env, const char* message);

}  // namespace sdpo
