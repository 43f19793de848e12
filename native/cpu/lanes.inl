// The vectors that the inner loops are written in: the lanes of a sum, and how elements of a dtype get there and back.
// Included by kernels.inl, once per instruction set.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "formats.inl"

namespace sdpo::cpu {
namespace SDPO_KERNELS_NAMESPACE {
namespace {

// ---- The lanes of a sum: a power of two of registers, halved recursively so that each is a value of its own to the
// compiler (GCC keeps vectors wider than a register, and arrays of vectors, in memory).

template <class R, int N>
struct Pack {
  Pack<R, N / 2> low, high;
};

template <class R>
struct Pack<R, 1> {
  R r;
};

#define SDPO_PACK_OPERATOR(op)                                                   \
  template <class R>                                                             \
  SDPO_INLINE Pack<R, 1> operator op(const Pack<R, 1>& x, const Pack<R, 1>& y) { \
    return {x.r op y.r};                                                         \
  }                                                                              \
  template <class R, int N>                                                      \
  SDPO_INLINE Pack<R, N> operator op(const Pack<R, N>& x, const Pack<R, N>& y) { \
    return {x.low op y.low, x.high op y.high};                                   \
  }
SDPO_PACK_OPERATOR(+)
SDPO_PACK_OPERATOR(-)
SDPO_PACK_OPERATOR(*)
#undef SDPO_PACK_OPERATOR

template <class R, int N>
SDPO_INLINE Pack<R, N> minus_exact_product(const Pack<R, N>& z, const Pack<R, N>& x, const Pack<R, N>& y) {
  if constexpr (N == 1) {
    return {minus_exact_product(z.r, x.r, y.r)};
  } else {
    return {minus_exact_product(z.low, x.low, y.low), minus_exact_product(z.high, x.high, y.high)};
  }
}

// Elements p[0 ... lanes) as a pack, and back.
template <class T, class R, int N>
SDPO_INLINE void unpack(const T* p, Pack<R, N>& out) {
  if constexpr (N == 1) {
    out.r = widen(p);
  } else {
    constexpr int kHalf = N / 2 * (kRegisterBytes / static_cast<int>(sizeof(R{}[0])));
    unpack(p, out.low);
    unpack(p + kHalf, out.high);
  }
}

template <bool kStream, class T, class R, int N>
SDPO_INLINE void pack(const Pack<R, N>& v, T* p) {
  if constexpr (N == 1) {
    narrow<kStream>(v.r, p);
  } else {
    constexpr int kHalf = N / 2 * (kRegisterBytes / static_cast<int>(sizeof(R{}[0])));
    pack<kStream>(v.low, p);
    pack<kStream>(v.high, p + kHalf);
  }
}

// The same for bfloat16 two elements a word, which takes no shuffle: of two registers the lower holds the even elements
// and the upper the odd ones. Lane k of a sum still gets the elements k mod 16; only its place differs, until sum_lanes
// puts it back.
template <int N>
SDPO_INLINE void unpack_pairs(const BFloat16* p, Pack<FloatRegister, N>& out) {
  if constexpr (N == 2) {
    const BitsRegister words = load<BitsRegister>(p);
    out.low.r = bits<FloatRegister>(words << 16);
    out.high.r = bits<FloatRegister>(words & 0xffff0000u);
  } else {
    unpack_pairs(p, out.low);
    unpack_pairs(p + N / 2 * (kRegisterBytes / 4), out.high);
  }
}

template <bool kStream, int N>
SDPO_INLINE void pack_pairs(const Pack<FloatRegister, N>& v, BFloat16* p) {
  if constexpr (N == 2) {
    const BitsRegister words = (round_words(v.low.r) >> 16) | (round_words(v.high.r) & 0xffff0000u);
    store<kStream>(words, p);
  } else {
    pack_pairs<kStream>(v.low, p);
    pack_pairs<kStream>(v.high, p + N / 2 * (kRegisterBytes / 4));
  }
}

template <class R, int N, class S>
SDPO_INLINE void fill(Pack<R, N>& out, S x) {
  if constexpr (N == 1) {
    out.r = R{} + x;
  } else {
    fill(out.low, x);
    fill(out.high, x);
  }
}

// An element of weight 0 takes no part, whatever it holds: 0 * NaN must not reach a sum.
template <class Mask, class R, int N>
SDPO_INLINE Pack<R, N> where_weighted(const Pack<R, N>& e, const Pack<R, N>& x) {
  if constexpr (N == 1) {
    return {bits<R>(bits<Mask>(x.r) & reinterpret_cast<Mask>(e.r != 0))};
  } else {
    return {where_weighted<Mask>(e.low, x.low), where_weighted<Mask>(e.high, x.high)};
  }
}

// ---- One element type: the lanes it is computed in.

template <class T>
struct Lanes {  // float, Float16, BFloat16
  using Scalar = float;
  using Mask = Int32Register;
  static constexpr int kWidth = 16;
  using Vector = Pack<FloatRegister, kWidth* static_cast<int>(sizeof(float)) / kRegisterBytes>;
};

template <>
struct Lanes<double> {
  using Scalar = double;
  using Mask = Int64Register;
  static constexpr int kWidth = 8;
  using Vector = Pack<DoubleRegister, kWidth* static_cast<int>(sizeof(double)) / kRegisterBytes>;
};

// Whether elements may be read in pairs: element weights come one by one, and 64-byte registers hold all lanes in one.
template <class T, bool kWeighted>
constexpr bool kInPairs = std::is_same_v<T, BFloat16> && !kWeighted && kRegisterBytes < 64;

// Whether the elements of a vector fill a line of the cache, or half of one.
template <class T>
constexpr bool kWholeLines = sizeof(T) >= 4 && kRegisterBytes == 64;
template <class T>
constexpr bool kHalfLines = sizeof(T) == 2 && kRegisterBytes == 64;

// Elements from p to the next line of the cache.
template <class T>
SDPO_INLINE int64_t before_line(const T* p) {
  constexpr uintptr_t kLine = 64;
  return static_cast<int64_t>((kLine - reinterpret_cast<uintptr_t>(p) % kLine) % kLine / sizeof(T));
}

template <bool kPairs = false, class T>
SDPO_INLINE typename Lanes<T>::Vector read(const T* p) {
  typename Lanes<T>::Vector v;
  if constexpr (kPairs) {
    unpack_pairs(p, v);
  } else {
    unpack(p, v);
  }
  return v;
}

template <bool kPairs, bool kStream, class T>
SDPO_INLINE void write(const typename Lanes<T>::Vector& v, T* p) {
  if constexpr (kPairs) {
    pack_pairs<kStream>(v, p);
  } else {
    pack<kStream>(v, p);
  }
}

// x - y. Where float16 is widened 16 at a time, by units that additions take as well, those of multiplications
// subtract.
template <class T, class V>
SDPO_INLINE V difference(const V& x, const V& y) {
  if constexpr (std::is_same_v<T, Float16> && kRegisterBytes == 64) {
    V one;
    fill(one, 1.0f);
    return minus_exact_product(x, one, y);
  } else {
    return x - y;
  }
}

// Elements p[0 ... n) from position `at` on, padded with zeros to a vector: equal zeros have no error and add nothing
// to any sum.
template <class T>
struct Padded {
  T values[Lanes<T>::kWidth] = {};
  SDPO_INLINE Padded(const T* p, int64_t n, int64_t at = 0) {
    if (p == nullptr) return;
#if defined(__AVX512F__)
    load_part(p - at, ((1u << n) - 1) << at, values);
#else
    std::memcpy(values + at, p, static_cast<size_t>(n) * sizeof(T));
#endif
  }
};

// Lanes are added pairwise in float64, in one fixed order: each with the one half way round, and so on, so that to turn
// the lanes changes which number comes first in a sum of two, and no sum.
SDPO_INLINE double sum_lanes(const double* v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}

template <bool, int N>
SDPO_INLINE double sum_lanes(const Pack<DoubleRegister, N>& v) {
  double lanes[8];
  pack<false>(v, lanes);
  return sum_lanes(lanes);
}

template <bool kPairs, int N>
SDPO_INLINE double sum_lanes(const Pack<FloatRegister, N>& v) {
  float lanes[16];
  pack<false>(v, lanes);
  if constexpr (kPairs) {
    constexpr int kHalf = kRegisterBytes / 4;
    float placed[16];
    for (int i = 0; i < 16; ++i) placed[i] = lanes[i / (2 * kHalf) * (2 * kHalf) + i % 2 * kHalf + i % (2 * kHalf) / 2];
    std::memcpy(lanes, placed, sizeof lanes);
  }
  double sums[8];
  for (int i = 0; i < 8; ++i) sums[i] = static_cast<double>(lanes[i]) + static_cast<double>(lanes[i + 8]);
  return sum_lanes(sums);
}

}  // namespace
}  // namespace SDPO_KERNELS_NAMESPACE
}  // namespace sdpo::cpu
