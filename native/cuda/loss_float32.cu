// The fused kernel for batches whose tensors all hold float32.
#include "kernel.cuh"

namespace sdpo::cuda {
KernelEntry float32_kernel(bool plain) { return plain ? kernel_entry<Uniform<float>, true>() : kernel_entry<Uniform<float>, false>(); }
}  // namespace sdpo::cuda
