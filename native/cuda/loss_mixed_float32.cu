// The kernels for mixtures of dtypes that are computed in float32.
#include "entry.cuh"

namespace sdpo::cuda {
KernelEntry mixed_float32_kernel() { return kernel_entry<Mixed<float>, false>(); }
}  // namespace sdpo::cuda
