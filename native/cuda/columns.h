// Numbers per row that a call was given on the host, on their way to the kernels.
#pragma once

#include "../core/columns.h"
#include "check.h"

namespace sdpo::cuda {

// Writes the lists that lie on the host to `out`, float64, one behind the other, and lets their columns point to where
// they will lie in device memory: at `room`. Returns how many numbers that are; RowInput::count * rows at most.
int64_t gather_lists(RowColumns* columns, int64_t rows, double* out, double* room);

// The same on the stream without a copy, whose source would have to stay: the numbers travel as arguments of kernels,
// which a graph keeps.
Status send_lists(RowColumns* columns, int64_t rows, double* room, int device, cudaStream_t stream);

// Loads the kernel of send_lists: the runtime loads kernels at their first launch, which may not be possible during a
// capture.
Status load_send_lists(int device);

}  // namespace sdpo::cuda
