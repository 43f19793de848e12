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

__device__ __forceinline__ uint64_t load_acquire(const uint64_t* word) {
  uint64_t value;
  asm volatile("ld.acquire.gpu.global.u64 %0, [%1];" : "=l"(value) : "l"(__cvta_generic_to_global(word)) : "memory");
  return value;
}

// Waits for a word of a row (RowWord); asleep between looks, so that the blocks at work keep the issue slots.
__device__ __forceinline__ uint64_t wait_for_word(const uint64_t* word) {
  uint64_t value;
  while ((value = load_acquire(word)) == RowWord::pending) __nanosleep(64);
  return value;
}

// One fence, and the words behind it: each releases.
__device__ __forceinline__ void tell(uint64_t* words, const uint64_t (&values)[RowWord::count]) {
  __threadfence();
#pragma unroll
  for (int k = 0; k < RowWord::count; ++k) {
    asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(__cvta_generic_to_global(words + k)), "l"(values[k])
                 : "memory");
  }
}

}  // namespace sdpo::cuda
