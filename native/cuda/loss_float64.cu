// The fused kernel for batches whose tensors all hold float64.
#include "kernel.cuh"

namespace sdpo::cuda {
KernelEntry float64_kernel(bool plain) { return plain ? kernel_entry<Uniform<double>, true>() : kernel_entry<Uniform<double>, false>(); }
}  // namespace sdpo::cuda
