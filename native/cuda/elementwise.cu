// Elementwise operations on a device: a x + b y row by row, and noise by counter.
#include <algorithm>

#include "../core/philox.h"
#include "check.h"
#include "pack.cuh"
#include "policy.h"

namespace sdpo::cuda {
namespace {

// Coefficients travel as kernel arguments: no buffer, no copy, nothing to wait for.
constexpr int kRowsPerLaunch = 64;

struct RowFactors {
  double a[kRowsPerLaunch], b[kRowsPerLaunch];
};

// Products and their sum are rounded one by one in float64, and once to the dtype: the bits of the CPU.
template <class T>
__global__ void __launch_bounds__(kElementwiseThreads, kElementwiseMinBlocks)
    combine_kernel(const __grid_constant__ RowFactors factors, const T* x, int64_t x_stride, const T* y,
                   int64_t y_stride, T* out, int64_t out_stride, int64_t size) {
  constexpr int kPack = kAccessBytes / static_cast<int>(sizeof(T));
  const CacheHints hints = make_cache_hints();
  const double a = factors.a[blockIdx.y], b = factors.b[blockIdx.y];
  x += blockIdx.y * x_stride;
  y += blockIdx.y * y_stride;
  out += blockIdx.y * out_stride;
  const bool vector = is_aligned(x, kAccessBytes) && is_aligned(y, kAccessBytes) && is_aligned(out, kAccessBytes);
  const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x * kPack;
  for (int64_t i = (blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x) * kPack; i < size; i += step) {
    if (vector && i + kPack <= size) {
      const auto u = load_words<T, kPack>(x + i, hints.pass), v = load_words<T, kPack>(y + i, hints.pass);
      double values[kPack];
#pragma unroll
      for (int k = 0; k < kPack; ++k) {
        values[k] = add(mul(a, static_cast<double>(u.get(k))), mul(b, static_cast<double>(v.get(k))));
      }
      store_values<T, kPack>(out + i, values, hints.pass);
    } else {
      for (int64_t k = i; k < size && k < i + kPack; ++k) {
        store_element(out + k, add(mul(a, static_cast<double>(load_element(x + k))),
                                   mul(b, static_cast<double>(load_element(y + k)))));
      }
    }
  }
}

// Thread n makes the block of four that belongs to counter first + n; the first and the last block may be cut by offset
// and count.
template <class T, bool kWords>
__global__ void __launch_bounds__(kElementwiseThreads, kElementwiseMinBlocks)
    noise_kernel(uint64_t seed, uint64_t offset, int64_t count, T* out) {
  const uint64_t first = offset >> 2, blocks = ((offset + static_cast<uint64_t>(count) + 3) >> 2) - first;
  const uint64_t step = static_cast<uint64_t>(gridDim.x) * blockDim.x;
  for (uint64_t n = blockIdx.x * static_cast<uint64_t>(blockDim.x) + threadIdx.x; n < blocks; n += step) {
    const Philox4 block = philox4x32_10(first + n, seed);
    double normals[4];
    if constexpr (!kWords) {
      box_muller(block.v[0], block.v[1], normals);
      box_muller(block.v[2], block.v[3], normals + 2);
    }
#pragma unroll
    for (int lane = 0; lane < 4; ++lane) {
      const int64_t i = static_cast<int64_t>((first + n) * 4 + lane - offset);  // negative before the first element
      if (i < 0 || i >= count) continue;
      if constexpr (kWords) {
        out[i] = block.v[lane];
      } else {
        store_element(out + i, normals[lane]);
      }
    }
  }
}

// Blocks for `threads` threads' worth of work; the kernels step on from there.
unsigned blocks_for(int64_t threads) {
  constexpr int64_t kMost = 65535;
  return static_cast<unsigned>(std::min<int64_t>((threads + kElementwiseThreads - 1) / kElementwiseThreads, kMost));
}

template <class T>
Status combine_as(const CombineProblem& p, cudaStream_t stream) {
  constexpr int kPack = kAccessBytes / static_cast<int>(sizeof(T));
  for (int64_t begin = 0; begin < p.rows; begin += kRowsPerLaunch) {
    const int rows = static_cast<int>(std::min<int64_t>(kRowsPerLaunch, p.rows - begin));
    RowFactors factors{};
    std::copy_n(p.a + begin, rows, factors.a);
    std::copy_n(p.b + begin, rows, factors.b);
    const dim3 grid(blocks_for((p.size + kPack - 1) / kPack), static_cast<unsigned>(rows));
    combine_kernel<T><<<grid, kElementwiseThreads, 0, stream>>>(
        factors, static_cast<const T*>(p.x.at(begin, 0)), p.x.row_stride, static_cast<const T*>(p.y.at(begin, 0)),
        p.y.row_stride, static_cast<T*>(p.out.at(begin, 0)), p.out.row_stride, p.size);
    CUDA_TRY(cudaGetLastError(), "combining tensors", p.location.ordinal,
             std::to_string(p.rows) + " rows of " + std::to_string(p.size) + " " +
                 kDTypeNames[static_cast<int>(p.out.dtype)]);
  }
  return Status::ok;
}

template <class T, bool kWords>
Status noise_as(const NoiseProblem& p, cudaStream_t stream) {
  noise_kernel<T, kWords><<<blocks_for(p.count / 4 + 2), kElementwiseThreads, 0, stream>>>(p.seed, p.offset, p.count,
                                                                                           static_cast<T*>(p.out));
  CUDA_TRY(cudaGetLastError(), "drawing noise", p.location.ordinal,
           std::to_string(p.count) + " " + (kWords ? "words" : kDTypeNames[static_cast<int>(p.dtype)]));
  return Status::ok;
}

}  // namespace

Status combine(const CombineProblem& problem) {
  if (problem.rows == 0 || problem.size == 0) return Status::ok;
  CUDA_ENTER(problem.location.ordinal);
  const auto on = static_cast<cudaStream_t>(problem.stream);
  switch (problem.out.dtype) {
    case DType::float64:
      return combine_as<double>(problem, on);
    case DType::float32:
      return combine_as<float>(problem, on);
    case DType::float16:
      return combine_as<Float16>(problem, on);
    case DType::bfloat16:
      break;
  }
  return combine_as<BFloat16>(problem, on);
}

Status noise(const NoiseProblem& problem) {
  if (problem.count == 0) return Status::ok;
  CUDA_ENTER(problem.location.ordinal);
  const auto on = static_cast<cudaStream_t>(problem.stream);
  if (problem.words) return noise_as<uint32_t, true>(problem, on);
  switch (problem.dtype) {
    case DType::float64:
      return noise_as<double, false>(problem, on);
    case DType::float32:
      return noise_as<float, false>(problem, on);
    case DType::float16:
      return noise_as<Float16, false>(problem, on);
    case DType::bfloat16:
      break;
  }
  return noise_as<BFloat16, false>(problem, on);
}

}  // namespace sdpo::cuda
