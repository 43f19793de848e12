// The kernels for batches whose tensors all hold float32.
#include "entry.cuh"

namespace sdpo::cuda {
KernelEntry float32_kernel(bool plain) {
  return plain ? kernel_entry<Uniform<float>, true>() : kernel_entry<Uniform<float>, false>();
}
}  // namespace sdpo::cuda
