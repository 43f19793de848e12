// Which kernel runs a call, and with how many blocks: what policy.h says, and what the device and this build can do.
#pragma once

#include "check.h"
#include "kernels.h"
#include "policy.h"

namespace sdpo::cuda {

struct Launch {
  KernelEntry entry;
  int64_t blocks;       // of the tile kernel that run at once
  int64_t l2;           // bytes; 0: not told
  ClusterPlan cluster;  // blocks 0: the tile kernel runs
};

// How a cluster kernel is launched; `attribute` has to stay as long as the configuration.
cudaLaunchConfig_t cluster_launch(const ClusterPlan& plan, int64_t rows, cudaStream_t stream,
                                  cudaLaunchAttribute* attribute);

// Chooses the launch of a call on the current device, which is `device`. What a device can do is asked once.
Status choose_launch(const Problem& problem, int device, Launch* out);

}  // namespace sdpo::cuda
