// The kernels for batches whose tensors all hold float16.
#include "entry.cuh"

namespace sdpo::cuda {
KernelEntry float16_kernel(bool plain) {
  return plain ? kernel_entry<Uniform<Float16>, true>() : kernel_entry<Uniform<Float16>, false>();
}
}  // namespace sdpo::cuda
