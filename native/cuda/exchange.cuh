// Words in device memory that blocks exchange.
//
// Release: what this thread (and, behind a barrier, its block) wrote before is visible to whoever
// acquires the value.
#pragma once

#include <cuda_runtime.h>

#include "arguments.h"

namespace sdpo::cuda {

__device__ __forceinline__ unsigned int arrive(unsigned int* counter) {
  unsigned int previous;
  asm volatile("atom.acq_rel.gpu.global.add.u32 %0, [%1], 1;"
               : "=r"(previous)
               : "l"(__cvta_generic_to_global(counter))
               : "memory");
  return previous;
}

__device__ __forceinline__ uint32_t load_acquire(const uint32_t* flag) {
  uint32_t value;
  asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(value) : "l"(__cvta_generic_to_global(flag)) : "memory");
  return value;
}

__device__ __forceinline__ void store_release(uint32_t* flag, uint32_t value) {
  asm volatile("st.release.gpu.global.u32 [%0], %1;" ::"l"(__cvta_generic_to_global(flag)), "r"(value) : "memory");
}

// Waits for a row to be finished; asleep between looks, so that the blocks at work keep the issue slots.
__device__ __forceinline__ uint32_t wait_for_row(const uint32_t* flag) {
  uint32_t value;
  while ((value = load_acquire(flag)) == RowFlag::pending) __nanosleep(64);
  return value;
}

}  // namespace sdpo::cuda
