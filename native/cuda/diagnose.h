// After a call has failed: which value of which tensor was it?
#pragma once

#include <cuda_runtime_api.h>

#include "check.h"

namespace sdpo::cuda {

// `scratch` is room for one unsigned long long in device memory. Both wait for the stream.

// Finds the first value of row failure->row that is not finite, in the order in which the CPU looks, and fills in the
// rest of `failure`. Returns Status::non_finite, or what went wrong.
Status find_non_finite(const Problem& problem, int device, cudaStream_t stream, unsigned long long* scratch,
                       Failure* failure);

// After a call whose rows are all finite, with results on the host: their sum or a gradient may not be. Returns
// Status::non_finite with all of `failure`, Status::ok, or what went wrong.
Status find_overflow(const Problem& problem, int device, cudaStream_t stream, unsigned long long* scratch,
                     Failure* failure);

}  // namespace sdpo::cuda
