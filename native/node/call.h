// How JavaScript values become a Problem: the layout of the header of a call.
#pragma once

#include <napi.h>

#include "values.h"

namespace sdpo {

// Arguments of evaluate and evaluateAsync after the four fixed ones (header, lists, rowOutputs, metrics), in this
// order; the abort flag and the stream follow. On the host an operand is a typed array, on a device its address as a
// bigint.
// clang-format off
#define SDPO_OPERANDS(X)                                                                    \
  X(policyChosen) X(referenceChosen) X(targetChosen) X(gradientChosen) X(policyRejected)    \
  X(referenceRejected) X(targetRejected) X(gradientRejected) X(elementWeights)              \
  X(elementWeightsRejected)
// clang-format on
SDPO_FIELDS(Operand, SDPO_OPERANDS)

// The header is a Float64Array of parts, one after the other: the fields of the call; the options (core/options.h);
// source and number of each row input (core/columns.h); dtype and row stride of each operand. omegaTable is an address
// of the device, 0: none.
// clang-format off
#define SDPO_HEADER(X) \
  X(passes) X(rows) X(size) X(denominator) X(gradientScale) X(threads) X(device) X(omegaTable) X(omegaCount)
// clang-format on
SDPO_FIELDS(Header, SDPO_HEADER)

struct HeaderPart {
  static constexpr int options = Header::count, sources = options + kOptionCount, numbers = sources + RowInput::count,
                       dtypes = numbers + RowInput::count, strides = dtypes + Operand::count,
                       count = strides + Operand::count;
};

// What the number of a row input is: the value of all rows; the position of its list in `lists`; the address of a
// tensor.
#define SDPO_ROW_SOURCES(X) X(constant, "constant") X(list, "list") X(float64, "float64") X(float32, "float32")
SDPO_NAMED_ENUM(RowSource, SDPO_ROW_SOURCES)

// Written behind the metrics when a call fails.
#define SDPO_FAILURE_FIELDS(X) X(row) X(branch) X(tensor) X(element)
SDPO_FIELDS(FailureField, SDPO_FAILURE_FIELDS)
constexpr int kMetricsLength = Metric::count + FailureField::count;

// Positions of the arguments of evaluate and evaluateAsync.
constexpr size_t kHeaderArgument = 0, kLists = 1, kRowOutputs = 2, kMetrics = 3, kFirstOperand = 4;
constexpr size_t kAbort = kFirstOperand + Operand::count, kStream = kAbort + 1;

// Reads the arguments of evaluate. Row outputs and metrics are Float64Arrays, or both addresses on the device of the
// tensors; then *failure is null, since such a call reports nothing. Throws a Napi::Error for anything that would read
// or write outside of the arrays.
Problem read_problem(const Napi::CallbackInfo& info, double** failure);

// Ends a call: writes the failure behind the metrics and gives the number of the status.
int report(Status status, const Failure& failure, double* out);

}  // namespace sdpo
