// The inner loops of the CPU backend, compiled once per instruction set: SDPO_KERNELS_NAMESPACE and SDPO_KERNELS_NAME say which.
//
// Written with the compilers' vector extensions: a vector is always 16 floats (8 doubles), whatever the machine's registers are, and
// no multiply-add is contracted (-ffp-contract=off). So every instruction set performs the same operations in the same order and gives
// the same bits, and the lane structure, not the hardware, decides the order of the sums.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "kernels.h"

namespace sdpo::cpu {
namespace SDPO_KERNELS_NAMESPACE {
namespace {

typedef float F32 __attribute__((vector_size(64)));
typedef int32_t I32 __attribute__((vector_size(64)));
typedef uint32_t U32 __attribute__((vector_size(64)));
typedef uint16_t U16 __attribute__((vector_size(32)));
typedef double F64 __attribute__((vector_size(64)));
typedef int64_t I64 __attribute__((vector_size(64)));
typedef float F32Half __attribute__((vector_size(32)));

#define SDPO_INLINE inline __attribute__((always_inline))

template <class V>
SDPO_INLINE V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

template <class V>
SDPO_INLINE void store(void* p, const V& v) {
  std::memcpy(p, &v, sizeof v);
}

template <class To, class From>
SDPO_INLINE To bits(const From& v) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To out;
  std::memcpy(&out, &v, sizeof out);
  return out;
}

// mask ? a : b, lane by lane; a mask lane is all ones or all zeros.
SDPO_INLINE U32 select(const U32& mask, const U32& a, const U32& b) { return (mask & a) | (~mask & b); }

SDPO_INLINE U32 splat(uint32_t x) { return U32{} + x; }

// ---- 16-bit formats

SDPO_INLINE F32 widen_bfloat16(const U16& v) { return bits<F32>(__builtin_convertvector(v, U32) << 16); }

SDPO_INLINE U16 narrow_bfloat16(const F32& v) {
  const U32 u = bits<U32>(v);
  const U32 rounded = u + 0x7fff + ((u >> 16) & 1);                      // nearest, ties to even; overflow runs into infinity
  const U32 nan = reinterpret_cast<U32>((u & 0x7fffffff) > splat(0x7f800000));
  return __builtin_convertvector(select(nan, (u | 0x400000), rounded) >> 16, U16);  // a NaN stays one
}

SDPO_INLINE F32 widen_float16(const U16& v) {
#if defined(__AVX512F__)
  return bits<F32>(_mm512_maskz_cvtph_ps(0xffff, bits<__m256i>(v)));  // unmasked, GCC 12 warns inside its own header
#elif defined(__F16C__)
  F32 out;
  __m256 low = _mm256_cvtph_ps(load<__m128i>(&v)), high = _mm256_cvtph_ps(load<__m128i>(reinterpret_cast<const char*>(&v) + 16));
  std::memcpy(&out, &low, 32);
  std::memcpy(reinterpret_cast<char*>(&out) + 32, &high, 32);
  return out;
#else
  // The exponent is moved by a multiplication, which also normalises subnormals exactly.
  const U32 u = __builtin_convertvector(v, U32);
  const U32 magnitude = u & 0x7fff;
  const F32 scaled = bits<F32>(magnitude << 13) * 0x1p112f;
  const U32 special = reinterpret_cast<U32>(magnitude >= splat(0x7c00)) & 0x7f800000;
  const U32 quiet = reinterpret_cast<U32>(magnitude > splat(0x7c00)) & 0x400000;  // as the hardware instruction does
  return bits<F32>(bits<U32>(scaled) | special | quiet | ((u & 0x8000) << 16));
#endif
}

SDPO_INLINE U16 narrow_float16(const F32& v) {
#if defined(__AVX512F__)
  return bits<U16>(_mm512_maskz_cvtps_ph(0xffff, bits<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
#elif defined(__F16C__)
  U16 out;
  const __m128i low = _mm256_cvtps_ph(load<__m256>(&v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m128i high =
      _mm256_cvtps_ph(load<__m256>(reinterpret_cast<const char*>(&v) + 32), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  std::memcpy(&out, &low, 16);
  std::memcpy(reinterpret_cast<char*>(&out) + 16, &high, 16);
  return out;
#else
  const U32 u = bits<U32>(v);
  const U32 sign = (u & 0x80000000u) >> 16;
  const U32 magnitude = u & 0x7fffffff;
  // Subnormal results: adding 0.5 lets the float unit shift and round to the 24th fraction bit, which is the last bit of a half.
  const U32 subnormal = bits<U32>(bits<F32>(magnitude) + 0.5f) - 0x3f000000u;
  const U32 normal = (magnitude - 0x38000000u + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const U32 nan = reinterpret_cast<U32>(magnitude > splat(0x7f800000)) & (0x200 | ((magnitude >> 13) & 0x3ff));
  U32 out = select(reinterpret_cast<U32>(magnitude < splat(0x38800000)), subnormal, normal);
  out = select(reinterpret_cast<U32>(magnitude >= splat(0x47800000)), 0x7c00 | nan, out);
  return __builtin_convertvector(out | sign, U16);
#endif
}

// ---- One element type: its storage, the vector it is computed in, and loads and stores between the two.

template <class T>
struct Lanes;

template <>
struct Lanes<double> {
  using Vector = F64;
  using Scalar = double;
  using Mask = I64;
  static constexpr int kWidth = 8;
  static SDPO_INLINE F64 read(const double* p) { return load<F64>(p); }
  static SDPO_INLINE void write(double* p, const F64& v) { store(p, v); }
};

struct FloatLanes {
  using Vector = F32;
  using Scalar = float;
  using Mask = I32;
  static constexpr int kWidth = 16;
};

template <>
struct Lanes<float> : FloatLanes {
  static SDPO_INLINE F32 read(const float* p) { return load<F32>(p); }
  static SDPO_INLINE void write(float* p, const F32& v) { store(p, v); }
};

template <>
struct Lanes<Float16> : FloatLanes {
  static SDPO_INLINE F32 read(const Float16* p) { return widen_float16(load<U16>(p)); }
  static SDPO_INLINE void write(Float16* p, const F32& v) { store(p, narrow_float16(v)); }
};

template <>
struct Lanes<BFloat16> : FloatLanes {
  static SDPO_INLINE F32 read(const BFloat16* p) { return widen_bfloat16(load<U16>(p)); }
  static SDPO_INLINE void write(BFloat16* p, const F32& v) { store(p, narrow_bfloat16(v)); }
};

// A partial vector at the end of a tile, padded with zeros: equal zeros have no error and add nothing to any sum.
template <class T>
struct Padded {
  T values[Lanes<T>::kWidth] = {};
  SDPO_INLINE Padded(const T* p, int64_t n) {
    if (p != nullptr) std::memcpy(values, p, static_cast<size_t>(n) * sizeof(T));
  }
};

// Lanes are added pairwise in float64, in one fixed order.
SDPO_INLINE double sum_lanes(const F64& v) {
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
SDPO_INLINE double sum_lanes(const F32& v) {
  F32Half low, high;
  std::memcpy(&low, &v, 32);
  std::memcpy(&high, reinterpret_cast<const char*>(&v) + 32, 32);
  return sum_lanes(__builtin_convertvector(low, F64) + __builtin_convertvector(high, F64));
}

// An element of weight 0 takes no part, whatever it holds: 0 * NaN must not reach a sum.
template <class L>
SDPO_INLINE typename L::Vector where_weighted(const typename L::Vector& e, const typename L::Vector& x) {
  return bits<typename L::Vector>(bits<typename L::Mask>(x) & reinterpret_cast<typename L::Mask>(e != 0));
}

// ---- Kernels

template <class T, bool kWeighted, bool kReference>
struct MomentSums {
  using L = Lanes<T>;
  using V = typename L::Vector;
  V error{}, delta{}, drift{};

  SDPO_INLINE void add(const T* policy, const T* reference, const T* target, const typename L::Scalar* weights) {
    const V u = L::read(policy);
    V d = u - L::read(target);
    V h{};
    if constexpr (kReference) h = u - L::read(reference);
    if constexpr (kWeighted) {
      const V e = load<V>(weights);
      d = where_weighted<L>(e, d);
      error += e * (d * d);
      if constexpr (kReference) {
        h = where_weighted<L>(e, h);
        delta += e * (h * (d + d - h));
        drift += e * (h * h);
      }
    } else {
      error += d * d;
      if constexpr (kReference) {
        delta += h * (d + d - h);
        drift += h * h;
      }
    }
  }
};

template <class T, bool kWeighted, bool kReference>
TileMoments moments_of(const T* policy, const T* reference, const T* target, const typename Lanes<T>::Scalar* weights,
                       int64_t n) {
  constexpr int64_t kWidth = Lanes<T>::kWidth;
  MomentSums<T, kWeighted, kReference> sums;
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    sums.add(policy + i, kReference ? reference + i : nullptr, target + i, kWeighted ? weights + i : nullptr);
  }
  if (i < n) {
    const Padded<T> u(policy + i, n - i), r(kReference ? reference + i : nullptr, n - i), t(target + i, n - i);
    const Padded<typename Lanes<T>::Scalar> e(kWeighted ? weights + i : nullptr, n - i);
    sums.add(u.values, r.values, t.values, e.values);
  }
  return {sum_lanes(sums.error), sum_lanes(sums.delta), sum_lanes(sums.drift)};
}

template <class T>
TileMoments moments(const void* policy, const void* reference, const void* target, const void* weights, int64_t n) {
  const auto u = static_cast<const T*>(policy), r = static_cast<const T*>(reference), t = static_cast<const T*>(target);
  const auto e = static_cast<const typename Lanes<T>::Scalar*>(weights);
  if (e != nullptr) {
    return r != nullptr ? moments_of<T, true, true>(u, r, t, e, n) : moments_of<T, true, false>(u, r, t, e, n);
  }
  return r != nullptr ? moments_of<T, false, true>(u, r, t, e, n) : moments_of<T, false, false>(u, r, t, e, n);
}

template <class T>
double cross(const void* policy_c, const void* target_c, const void* policy_r, const void* target_r, const void* weights,
             int64_t n) {
  using L = Lanes<T>;
  using V = typename L::Vector;
  using S = typename L::Scalar;
  constexpr int64_t kWidth = L::kWidth;
  V sum{};
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t k = n - i < kWidth ? n - i : kWidth;
    const Padded<T> uc(static_cast<const T*>(policy_c) + i, k), tc(static_cast<const T*>(target_c) + i, k);
    const Padded<T> ur(static_cast<const T*>(policy_r) + i, k), tr(static_cast<const T*>(target_r) + i, k);
    const V dc = L::read(uc.values) - L::read(tc.values), dr = L::read(ur.values) - L::read(tr.values);
    if (weights == nullptr) {
      sum += dc * dr;
    } else {
      const Padded<S> w(static_cast<const S*>(weights) + i, k);
      const V e = load<V>(w.values);
      sum += e * (where_weighted<L>(e, dc) * where_weighted<L>(e, dr));
    }
  }
  return sum_lanes(sum);
}

template <class T, bool kWeighted, bool kDrift>
SDPO_INLINE void gradient_step(const T* policy, const T* reference, const T* target,
                               const typename Lanes<T>::Scalar* weights, const typename Lanes<T>::Vector& a,
                               const typename Lanes<T>::Vector& b, T* out) {
  using L = Lanes<T>;
  using V = typename L::Vector;
  const V u = L::read(policy);
  V g = a * (u - L::read(target));
  if constexpr (kDrift) g += b * (u - L::read(reference));
  if constexpr (kWeighted) {
    const V e = load<V>(weights);
    g = e * where_weighted<L>(e, g);
  }
  L::write(out, g);
}

template <class T, bool kWeighted, bool kDrift>
void gradient_of(const T* policy, const T* reference, const T* target, const typename Lanes<T>::Scalar* weights, int64_t n,
                 double a, double b, T* out) {
  using L = Lanes<T>;
  using S = typename L::Scalar;
  constexpr int64_t kWidth = L::kWidth;
  const typename L::Vector va = typename L::Vector{} + static_cast<S>(a), vb = typename L::Vector{} + static_cast<S>(b);
  int64_t i = 0;
  for (; i + kWidth <= n; i += kWidth) {
    gradient_step<T, kWeighted, kDrift>(policy + i, kDrift ? reference + i : nullptr, target + i,
                                        kWeighted ? weights + i : nullptr, va, vb, out + i);
  }
  if (i < n) {
    const Padded<T> u(policy + i, n - i), r(kDrift ? reference + i : nullptr, n - i), t(target + i, n - i);
    const Padded<S> e(kWeighted ? weights + i : nullptr, n - i);
    Padded<T> g(nullptr, 0);
    gradient_step<T, kWeighted, kDrift>(u.values, r.values, t.values, e.values, va, vb, g.values);
    std::memcpy(out + i, g.values, static_cast<size_t>(n - i) * sizeof(T));
  }
}

template <class T>
void gradient(const void* policy, const void* reference, const void* target, const void* weights, int64_t n, double a,
              double b, void* out) {
  const auto u = static_cast<const T*>(policy), r = static_cast<const T*>(reference), t = static_cast<const T*>(target);
  const auto e = static_cast<const typename Lanes<T>::Scalar*>(weights);
  const auto g = static_cast<T*>(out);
  if (e != nullptr) {
    r != nullptr ? gradient_of<T, true, true>(u, r, t, e, n, a, b, g) : gradient_of<T, true, false>(u, r, t, e, n, a, b, g);
  } else {
    r != nullptr ? gradient_of<T, false, true>(u, r, t, e, n, a, b, g) : gradient_of<T, false, false>(u, r, t, e, n, a, b, g);
  }
}

template <class S>
TileWeights weights(const void* values, int64_t n) {
  using V = typename Lanes<S>::Vector;
  constexpr int64_t kWidth = Lanes<S>::kWidth;
  const auto e = static_cast<const S*>(values);
  V sum{};
  S lowest = std::numeric_limits<S>::infinity();
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t k = n - i < kWidth ? n - i : kWidth;
    sum += load<V>(Padded<S>(e + i, k).values);
    for (int64_t j = 0; j < k; ++j) lowest = e[i + j] < lowest ? e[i + j] : lowest;
  }
  return {sum_lanes(sum), static_cast<double>(lowest)};
}

template <class T, class S>
void widen(const void* in, void* out, int64_t n) {
  const auto x = static_cast<const T*>(in);
  const auto y = static_cast<S*>(out);
  if constexpr (sizeof(T) >= 4) {
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<S>(x[i]);
  } else {
    constexpr int64_t kWidth = Lanes<T>::kWidth;
    for (int64_t i = 0; i < n; i += kWidth) {
      const int64_t k = n - i < kWidth ? n - i : kWidth;
      const F32 v = Lanes<T>::read(Padded<T>(x + i, k).values);
      for (int64_t j = 0; j < k; ++j) y[i + j] = static_cast<S>(v[j]);
    }
  }
}

template <class T, class S>
void narrow(const void* in, void* out, int64_t n) {
  const auto x = static_cast<const S*>(in);
  const auto y = static_cast<T*>(out);
  if constexpr (sizeof(T) >= 4) {
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<T>(x[i]);
  } else {
    constexpr int64_t kWidth = Lanes<T>::kWidth;
    for (int64_t i = 0; i < n; i += kWidth) {
      const int64_t k = n - i < kWidth ? n - i : kWidth;
      F32 v{};
      for (int64_t j = 0; j < k; ++j) v[j] = static_cast<float>(x[i + j]);
      Padded<T> rounded(nullptr, 0);
      Lanes<T>::write(rounded.values, v);
      std::memcpy(y + i, rounded.values, static_cast<size_t>(k) * sizeof(T));
    }
  }
}

// In the order of SDPO_DTYPES.
#define SDPO_PER_DTYPE(K) {K<double>, K<float>, K<Float16>, K<BFloat16>}
#define SDPO_PER_DTYPE_BOTH(K) \
  {{K<double, float>, K<double, double>}, {K<float, float>, K<float, double>}, {K<Float16, float>, K<Float16, double>}, {K<BFloat16, float>, K<BFloat16, double>}}

const KernelTable kTable = {SDPO_KERNELS_NAME,        SDPO_PER_DTYPE(moments),  SDPO_PER_DTYPE(cross),
                            SDPO_PER_DTYPE(gradient), {weights<float>, weights<double>},
                            SDPO_PER_DTYPE_BOTH(widen), SDPO_PER_DTYPE_BOTH(narrow)};

}  // namespace
}  // namespace SDPO_KERNELS_NAMESPACE
}  // namespace sdpo::cpu
