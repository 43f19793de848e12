// The kernels by element access: their addresses and how they cut rows. Each is compiled in a file of its own, in
// parallel.
#pragma once

namespace sdpo::cuda {

struct KernelEntry {
  const void* kernel;
  int pack;  // elements that a thread reads at a time
  int sums;  // what they leave of a tile
};

// Plain: both references, no element weights, no cross moment.
KernelEntry float64_kernel(bool plain);
KernelEntry float32_kernel(bool plain);
KernelEntry float16_kernel(bool plain);
KernelEntry bfloat16_kernel(bool plain);
KernelEntry mixed_float32_kernel();
KernelEntry mixed_float64_kernel();

}  // namespace sdpo::cuda
