// What a backend offers: four operations over plain structs. The CPU is a backend like any other.
#pragma once

#include <cstdint>

#include "problem.h"

namespace sdpo {

// out[row, :] = a[row] * x[row, :] + b[row] * y[row, :], computed in float64 and rounded once; x, y and out share one
// dtype.
struct CombineProblem {
  int64_t rows = 0;
  int64_t size = 0;
  const double* a = nullptr;
  const double* b = nullptr;
  TensorView x, y;
  MutableTensorView out;
  Location location;
  int threads = 0;
  void* stream = nullptr;  // CUDA: cudaStream_t
};

// Elements offset ... offset + count - 1 of the stream of `seed` (philox.h): standard normals in `dtype`, or raw 32-bit
// words.
struct NoiseProblem {
  uint64_t seed = 0;
  uint64_t offset = 0;
  int64_t count = 0;
  void* out = nullptr;
  DType dtype = DType::float32;
  bool words = false;  // out is uint32_t[count]
  Location location;
  int threads = 0;
  void* stream = nullptr;  // CUDA: cudaStream_t
};

struct Backend {
  const char* name;
  Status (*evaluate)(const Problem& problem, Failure* failure);
  Status (*combine)(const CombineProblem& problem);
  Status (*noise)(const NoiseProblem& problem);
};

const Backend& cpu_backend();

// The instruction set the CPU backend uses ("baseline", "avx2", "avx512"), and its default number of threads.
const char* cpu_instruction_set();
int cpu_default_threads();

}  // namespace sdpo
