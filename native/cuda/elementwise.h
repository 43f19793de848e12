// What a captured call needs of elementwise.cu before the capture.
#pragma once

#include "check.h"

namespace sdpo::cuda {

// Loads the kernel that forms row inputs: the runtime loads kernels at their first launch, which may not be possible
// during a capture.
Status load_row_inputs(int device);

}  // namespace sdpo::cuda
