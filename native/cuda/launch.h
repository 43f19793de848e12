// Which kernel runs a call, and with how many blocks: what policy.h says, and what the device and this build can do.
#pragma once

#include "check.h"
#include "kernels.h"
#include "policy.h"

namespace sdpo::cuda {

struct Launch {
  KernelEntry entry;
  int64_t blocks;  // that run at once
};

// Chooses the launch of a call on the current device, which is `device`. What a device can do is asked once.
Status choose_launch(const Problem& problem, int device, Launch* out);

}  // namespace sdpo::cuda
