// Element formats and memory access: conversions, packs of elements in 32-bit words, 128-bit loads and stores with
// cache hints.
//
// Everything also compiles for the host, where the same packs are read and written through memcpy: a host test runs the
// kernels' tiles.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../core/dtypes.h"

#if defined(__CUDACC__)
#define SDPO_CUDA_HD __host__ __device__ __forceinline__
#else
#define SDPO_CUDA_HD inline
#endif

// nvcc warns about #pragma unroll nowhere, the host compiler everywhere.
#if defined(__CUDA_ARCH__)
#define SDPO_UNROLL _Pragma("unroll")
#define SDPO_NO_UNROLL _Pragma("unroll 1")
#else
#define SDPO_UNROLL
#define SDPO_NO_UNROLL
#endif

namespace sdpo::cuda {

// ---- Arithmetic without contraction: the compiler may not fuse these into a multiply-add. So the gradient has the
// bits of the CPU's and the moments those of the host test; the kernels wait for memory, not for the few extra
// instructions.

#if defined(__CUDA_ARCH__)
SDPO_CUDA_HD float add(float a, float b) { return __fadd_rn(a, b); }
SDPO_CUDA_HD float sub(float a, float b) { return __fsub_rn(a, b); }
SDPO_CUDA_HD float mul(float a, float b) { return __fmul_rn(a, b); }
SDPO_CUDA_HD double add(double a, double b) { return __dadd_rn(a, b); }
SDPO_CUDA_HD double sub(double a, double b) { return __dsub_rn(a, b); }
SDPO_CUDA_HD double mul(double a, double b) { return __dmul_rn(a, b); }
#else
template <class S>
inline S add(S a, S b) {
  return a + b;
}
template <class S>
inline S sub(S a, S b) {
  return a - b;
}
template <class S>
inline S mul(S a, S b) {
  return a * b;
}
#endif

// By value: behind a reference into memory the compiler would copy the bytes one by one.
template <class To, class From>
SDPO_CUDA_HD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}

// A float32 for rounding on to 16 bits: rounding twice to nearest could turn a value just off a tie into the tie, so a
// double that does not fit is cut to the float32 towards zero and marked as inexact in the last bit (rounding to odd).
SDPO_CUDA_HD float to_odd(float x) { return x; }
SDPO_CUDA_HD float to_odd(double x) {
#if defined(__CUDA_ARCH__)
  const float cut = __double2float_rz(x);
  return static_cast<double>(cut) == x ? cut : bit_cast<float>(bit_cast<uint32_t>(cut) | 1u);
#else
  const float nearest = static_cast<float>(x);
  if (static_cast<double>(nearest) == x) return nearest;
  uint32_t word = bit_cast<uint32_t>(nearest);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(x)) --word;
  return bit_cast<float>(word | 1u);
#endif
}

// ---- One element type: the type it is computed in, from bits and to bits (nearest, ties to even).

template <class T>
struct Format;

template <>
struct Format<float> {
  using Compute = float;
  using Bits = uint32_t;
  SDPO_CUDA_HD static float widen(uint32_t bits) { return bit_cast<float>(bits); }
  SDPO_CUDA_HD static uint32_t narrow(float x) { return bit_cast<uint32_t>(x); }
  SDPO_CUDA_HD static uint32_t narrow(double x) { return bit_cast<uint32_t>(static_cast<float>(x)); }
};

template <>
struct Format<double> {
  using Compute = double;
  using Bits = uint64_t;
  SDPO_CUDA_HD static double widen(uint64_t bits) { return bit_cast<double>(bits); }
  SDPO_CUDA_HD static uint64_t narrow(double x) { return bit_cast<uint64_t>(x); }
};

template <>
struct Format<BFloat16> {
  using Compute = float;
  using Bits = uint16_t;
  SDPO_CUDA_HD static float widen(uint16_t bits) { return bit_cast<float>(static_cast<uint32_t>(bits) << 16); }
  SDPO_CUDA_HD static uint16_t narrow(float x) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint16_t out;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(out) : "f"(x));
    return out;
#else
    const uint32_t u = bit_cast<uint32_t>(x);
    if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((u | 0x400000u) >> 16);  // a NaN stays one
    return static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);  // overflow runs into infinity
#endif
  }
  SDPO_CUDA_HD static uint16_t narrow(double x) { return narrow(to_odd(x)); }
  SDPO_CUDA_HD static uint32_t narrow_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t out;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
#else
    return narrow(low) | static_cast<uint32_t>(narrow(high)) << 16;
#endif
  }
};

template <>
struct Format<Float16> {
  using Compute = float;
  using Bits = uint16_t;
  SDPO_CUDA_HD static float widen(uint16_t bits) {
#if defined(__CUDA_ARCH__)
    float out;
    asm("cvt.f32.f16 %0, %1;" : "=f"(out) : "h"(bits));
    return out;
#else
    // The exponent is moved by a multiplication, which also normalises subnormals exactly.
    const uint32_t magnitude = bits & 0x7fffu, sign = (bits & 0x8000u) << 16;
    uint32_t out = bit_cast<uint32_t>(bit_cast<float>(magnitude << 13) * 0x1p112f);
    if (magnitude >= 0x7c00u) out |= 0x7f800000u;
    return bit_cast<float>(out | sign);
#endif
  }
  SDPO_CUDA_HD static uint16_t narrow(float x) {
#if defined(__CUDA_ARCH__)
    uint16_t out;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(out) : "f"(x));
    return out;
#else
    const uint32_t u = bit_cast<uint32_t>(x), magnitude = u & 0x7fffffffu;
    const uint16_t sign = static_cast<uint16_t>((u & 0x80000000u) >> 16);
    if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u);
    if (magnitude >= 0x47800000u) return static_cast<uint16_t>(sign | 0x7c00u);
    // Subnormal results: adding 0.5 lets the float unit shift and round to the 24th fraction bit, which is the last bit
    // of a half.
    const uint32_t small = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    const uint32_t normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
    return static_cast<uint16_t>(sign | (magnitude < 0x38800000u ? small : normal));
#endif
  }
  SDPO_CUDA_HD static uint16_t narrow(double x) { return narrow(to_odd(x)); }
  SDPO_CUDA_HD static uint32_t narrow_pair(float low, float high) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    uint32_t out;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(out) : "f"(high), "f"(low));
    return out;
#else
    return narrow(low) | static_cast<uint32_t>(narrow(high)) << 16;
#endif
  }
};

// Calls body(T{}) with the storage type of a run-time dtype; the list is that of SDPO_DTYPES.
template <class Body>
SDPO_CUDA_HD void with_format(DType type, Body&& body) {
  switch (type) {
    case DType::float64:
      return body(double{});
    case DType::float32:
      return body(float{});
    case DType::float16:
      return body(Float16{});
    case DType::bfloat16:
      break;
  }
  return body(BFloat16{});
}

SDPO_CUDA_HD int bytes_of(DType type) {
  int bytes = 0;
  with_format(type, [&](auto element) { bytes = static_cast<int>(sizeof(element)); });
  return bytes;
}

// ---- Cache hints: what L2 should do with a line. Descriptors are made once per thread (sm_80 and later); before, L2
// decides.

struct CacheHints {
  uint64_t keep;  // read again soon: evict last
  uint64_t pass;  // not needed again: evict first
};

SDPO_CUDA_HD CacheHints make_cache_hints() {
  CacheHints hints{0, 0};
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("createpolicy.fractional.L2::evict_last.b64 %0, 1.0;" : "=l"(hints.keep));
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(hints.pass));
#endif
  return hints;
}

// ---- Words: N elements of T as 32-bit words, the form in which they wait in registers until all loads of a step are
// on their way.

template <class T, int N>
struct Words {
  static constexpr int kBytes = N * static_cast<int>(sizeof(T));
  static constexpr int kCount = kBytes / 4;
  uint32_t w[kCount];

  // Element i, which must be a constant after unrolling.
  SDPO_CUDA_HD typename Format<T>::Compute get(int i) const {
    if constexpr (sizeof(T) == 8) {
      return Format<T>::widen(static_cast<uint64_t>(w[2 * i]) | static_cast<uint64_t>(w[2 * i + 1]) << 32);
    } else if constexpr (sizeof(T) == 4) {
      return Format<T>::widen(w[i]);
    } else {
      return Format<T>::widen(static_cast<uint16_t>(i % 2 == 0 ? w[i / 2] & 0xffffu : w[i / 2] >> 16));
    }
  }

  template <class S>
  SDPO_CUDA_HD static Words of(const S (&values)[N]) {
    Words out;
    SDPO_UNROLL
    for (int k = 0; k < kCount; ++k) {
      if constexpr (sizeof(T) == 8) {
        const uint64_t bits = Format<T>::narrow(values[k / 2]);
        out.w[k] = static_cast<uint32_t>(k % 2 == 0 ? bits : bits >> 32);
      } else if constexpr (sizeof(T) == 4) {
        out.w[k] = Format<T>::narrow(values[k]);
      } else {
        out.w[k] = Format<T>::narrow_pair(to_odd(values[2 * k]), to_odd(values[2 * k + 1]));
      }
    }
    return out;
  }
};

namespace access {

// Hinted loads of 16 and 8 bytes at an address aligned to their size; two halves beside float64 are 4 bytes, without a
// hint. Not through the read-only path (ld.global.nc): a gradient may be written over the policy it comes from within
// the same launch. L1 is passed by, since no two threads want the same bytes.
SDPO_CUDA_HD void load16(const void* p, uint32_t* w, uint64_t hint) {
#if !defined(__CUDA_ARCH__)
  memcpy(w, p, 16);
  static_cast<void>(hint);
#elif __CUDA_ARCH__ >= 800
  asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
               : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
               : "l"(__cvta_generic_to_global(p)), "l"(hint));
#else
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
               : "l"(__cvta_generic_to_global(p)));
#endif
}

SDPO_CUDA_HD void load8(const void* p, uint32_t* w, uint64_t hint) {
#if !defined(__CUDA_ARCH__)
  memcpy(w, p, 8);
  static_cast<void>(hint);
#elif __CUDA_ARCH__ >= 800
  asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v2.u32 {%0, %1}, [%2], %3;"
               : "=r"(w[0]), "=r"(w[1])
               : "l"(__cvta_generic_to_global(p)), "l"(hint));
#else
  asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "l"(__cvta_generic_to_global(p)));
#endif
}

SDPO_CUDA_HD void load4(const void* p, uint32_t* w) { *w = *static_cast<const uint32_t*>(p); }

SDPO_CUDA_HD void store4(void* p, const uint32_t* w) { *static_cast<uint32_t*>(p) = *w; }

SDPO_CUDA_HD void store16(void* p, const uint32_t* w, uint64_t hint) {
#if !defined(__CUDA_ARCH__)
  memcpy(p, w, 16);
  static_cast<void>(hint);
#elif __CUDA_ARCH__ >= 800
  asm volatile(
      "st.global.L1::no_allocate.L2::cache_hint.v4.u32 [%0], {%1, %2, %3, %4}, %5;" ::"l"(__cvta_generic_to_global(p)),
      "r"(w[0]), "r"(w[1]), "r"(w[2]), "r"(w[3]), "l"(hint)
      : "memory");
#else
  asm volatile("st.global.cs.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)), "r"(w[0]), "r"(w[1]),
               "r"(w[2]), "r"(w[3])
               : "memory");
#endif
}

SDPO_CUDA_HD void store8(void* p, const uint32_t* w, uint64_t hint) {
#if !defined(__CUDA_ARCH__)
  memcpy(p, w, 8);
  static_cast<void>(hint);
#elif __CUDA_ARCH__ >= 800
  asm volatile("st.global.L1::no_allocate.L2::cache_hint.v2.u32 [%0], {%1, %2}, %3;" ::"l"(__cvta_generic_to_global(p)),
               "r"(w[0]), "r"(w[1]), "l"(hint)
               : "memory");
#else
  asm volatile("st.global.cs.v2.u32 [%0], {%1, %2};" ::"l"(__cvta_generic_to_global(p)), "r"(w[0]), "r"(w[1])
               : "memory");
#endif
}

}  // namespace access

SDPO_CUDA_HD bool is_aligned(const void* p, int bytes) {
  return (reinterpret_cast<uintptr_t>(p) & static_cast<uintptr_t>(bytes - 1)) == 0;
}

// The alignment that a vector access to N elements of T needs.
template <class T, int N>
constexpr int vector_alignment() {
  return Words<T, N>::kBytes < 16 ? Words<T, N>::kBytes : 16;
}

// N elements at an address of vector_alignment.
template <class T, int N>
SDPO_CUDA_HD Words<T, N> load_words(const T* p, uint64_t hint) {
  Words<T, N> out;
  if constexpr (Words<T, N>::kBytes % 16 == 0) {
    SDPO_UNROLL
    for (int k = 0; k < Words<T, N>::kBytes / 16; ++k)
      access::load16(reinterpret_cast<const char*>(p) + 16 * k, out.w + 4 * k, hint);
  } else if constexpr (Words<T, N>::kBytes == 8) {
    access::load8(p, out.w, hint);
  } else {
    static_assert(Words<T, N>::kBytes == 4, "a pack has 4, 8 or a multiple of 16 bytes");
    access::load4(p, out.w);
  }
  return out;
}

template <class T, int N, class S>
SDPO_CUDA_HD void store_values(T* p, const S (&values)[N], uint64_t hint) {
  const Words<T, N> words = Words<T, N>::of(values);
  if constexpr (Words<T, N>::kBytes % 16 == 0) {
    SDPO_UNROLL
    for (int k = 0; k < Words<T, N>::kBytes / 16; ++k)
      access::store16(reinterpret_cast<char*>(p) + 16 * k, words.w + 4 * k, hint);
  } else if constexpr (Words<T, N>::kBytes == 8) {
    access::store8(p, words.w, hint);
  } else {
    static_assert(Words<T, N>::kBytes == 4, "a pack has 4, 8 or a multiple of 16 bytes");
    access::store4(p, words.w);
  }
}

// One element, where a row's address or end does not allow a pack.
template <class T>
SDPO_CUDA_HD typename Format<T>::Compute load_element(const T* p) {
  return Format<T>::widen(bit_cast<typename Format<T>::Bits>(*p));
}

template <class T, class S>
SDPO_CUDA_HD void store_element(T* p, S value) {
  *p = bit_cast<T>(Format<T>::narrow(value));
}

}  // namespace sdpo::cuda
