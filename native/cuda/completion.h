// Calling back when a stream has come so far: one sleeping thread per device.
#pragma once

#include <cuda_runtime_api.h>

#include "check.h"

namespace sdpo::cuda {

Status on_completion(int device, cudaStream_t stream, Completion done);

}  // namespace sdpo::cuda
