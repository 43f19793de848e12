// The fused kernel for mixtures of dtypes that are computed in float64.
#include "kernel.cuh"

namespace sdpo::cuda {
KernelEntry mixed_float64_kernel() { return kernel_entry<Mixed<double>, false>(); }
}  // namespace sdpo::cuda
