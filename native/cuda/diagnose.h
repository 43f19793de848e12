// After a call has failed: which value of which tensor was it?
#pragma once

#include <cuda_runtime_api.h>

#include "check.h"

namespace sdpo::cuda {

// Finds the first value of a row that is not finite, in the order in which the CPU looks. `row_outputs` and
// `row_inputs` lie on the host; `scratch` is room for one unsigned long long in device memory. Waits for the stream.
// Fills in all of `failure` but the row.
Status find_non_finite(const Problem& problem, int device, cudaStream_t stream, int64_t row, const double* row_inputs,
                       const double* row_outputs, unsigned long long* scratch, Failure* failure);

}  // namespace sdpo::cuda
