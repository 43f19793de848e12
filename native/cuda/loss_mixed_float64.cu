// The kernels for mixtures of dtypes that are computed in float64.
#include "entry.cuh"

namespace sdpo::cuda {
KernelEntry mixed_float64_kernel() { return kernel_entry<Mixed<double>, false>(); }
}  // namespace sdpo::cuda
