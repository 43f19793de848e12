// Registers and the 16-bit formats, a register of floats at a time. Included by lanes.inl, once per instruction set.

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../core/dtypes.h"

namespace sdpo::cpu {
namespace SDPO_KERNELS_NAMESPACE {
namespace {

#if defined(__AVX512F__)
constexpr int kRegisterBytes = 64;
#elif defined(__AVX2__)
constexpr int kRegisterBytes = 32;
#else
constexpr int kRegisterBytes = 16;  // SSE2, NEON
#endif

#define SDPO_INLINE inline __attribute__((always_inline))

typedef float FloatRegister __attribute__((vector_size(kRegisterBytes)));
typedef int32_t Int32Register __attribute__((vector_size(kRegisterBytes)));
typedef uint32_t BitsRegister __attribute__((vector_size(kRegisterBytes)));
typedef uint16_t HalfRegister __attribute__((vector_size(kRegisterBytes / 2)));
typedef double DoubleRegister __attribute__((vector_size(kRegisterBytes)));
typedef int64_t Int64Register __attribute__((vector_size(kRegisterBytes)));

template <class To, class From>
SDPO_INLINE To bits(const From& v) {
  static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
  To out;
  std::memcpy(&out, &v, sizeof out);
  return out;
}

template <class V>
SDPO_INLINE V load(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// Stores a value; `kStream`: past the caches, to an address that is a multiple of its size, where the hardware can.
template <bool kStream, class V>
SDPO_INLINE void store(const V& v, void* p) {
#if defined(__x86_64__)
  if constexpr (kStream) {
#if defined(__AVX512F__)
    if constexpr (sizeof(V) == 64) return _mm512_stream_si512(static_cast<__m512i*>(p), bits<__m512i>(v));
#endif
#if defined(__AVX2__)
    if constexpr (sizeof(V) == 32) return _mm256_stream_si256(static_cast<__m256i*>(p), bits<__m256i>(v));
#endif
    if constexpr (sizeof(V) == 16) return _mm_stream_si128(static_cast<__m128i*>(p), bits<__m128i>(v));
  }
#endif
  std::memcpy(p, &v, sizeof v);
}

// mask ? a : b, lane by lane; a mask lane is all ones or all zeros.
SDPO_INLINE BitsRegister select(const BitsRegister& mask, const BitsRegister& a, const BitsRegister& b) {
  return (mask & a) | (~mask & b);
}

SDPO_INLINE BitsRegister splat(uint32_t x) { return BitsRegister{} + x; }

// Words of 16 bits to and from words of 32. The generic conversion is correct everywhere but takes GCC 12 several
// shuffles on x86.
#if defined(__AVX512F__)
SDPO_INLINE BitsRegister widen_words(const void* p) {
  return bits<BitsRegister>(
      _mm512_maskz_cvtepu16_epi32(0xffff, load<__m256i>(p)));  // the masked forms, since GCC 12 warns
}
SDPO_INLINE HalfRegister narrow_words(const BitsRegister& v) {  // inside its own header for the plain ones
  return bits<HalfRegister>(_mm512_maskz_cvtepi32_epi16(0xffff, bits<__m512i>(v)));
}
#elif defined(__AVX2__)
SDPO_INLINE BitsRegister widen_words(const void* p) {
  return bits<BitsRegister>(_mm256_cvtepu16_epi32(load<__m128i>(p)));
}
SDPO_INLINE HalfRegister narrow_words(const BitsRegister& v) {
  const __m256i x = bits<__m256i>(v);
  return bits<HalfRegister>(_mm256_castsi256_si128(_mm256_permute4x64_epi64(_mm256_packus_epi32(x, x), 0x08)));
}
#else
SDPO_INLINE BitsRegister widen_words(const void* p) {
  return __builtin_convertvector(load<HalfRegister>(p), BitsRegister);
}
SDPO_INLINE HalfRegister narrow_words(const BitsRegister& v) { return __builtin_convertvector(v, HalfRegister); }
#endif

// z - x y for an x y that is exact: one instruction does what a multiplication and a subtraction would, to the bit.
#if defined(__AVX512F__)
SDPO_INLINE FloatRegister minus_exact_product(const FloatRegister& z, const FloatRegister& x, const FloatRegister& y) {
  return bits<FloatRegister>(_mm512_fnmadd_ps(bits<__m512>(x), bits<__m512>(y), bits<__m512>(z)));
}
SDPO_INLINE DoubleRegister minus_exact_product(const DoubleRegister& z, const DoubleRegister& x,
                                               const DoubleRegister& y) {
  return bits<DoubleRegister>(_mm512_fnmadd_pd(bits<__m512d>(x), bits<__m512d>(y), bits<__m512d>(z)));
}
#elif defined(__FMA__)
SDPO_INLINE FloatRegister minus_exact_product(const FloatRegister& z, const FloatRegister& x, const FloatRegister& y) {
  return bits<FloatRegister>(_mm256_fnmadd_ps(bits<__m256>(x), bits<__m256>(y), bits<__m256>(z)));
}
SDPO_INLINE DoubleRegister minus_exact_product(const DoubleRegister& z, const DoubleRegister& x,
                                               const DoubleRegister& y) {
  return bits<DoubleRegister>(_mm256_fnmadd_pd(bits<__m256d>(x), bits<__m256d>(y), bits<__m256d>(z)));
}
#else
template <class R>
SDPO_INLINE R minus_exact_product(const R& z, const R& x, const R& y) {
  return z - x * y;
}
#endif

#if defined(__AVX512F__)
constexpr BitsRegister kLaneNumbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// Elements of p whose bit in the mask is set, and zeros, as a vector of lanes; what is not asked for is not read.
template <class T>
SDPO_INLINE void load_part(const T* p, uint32_t mask, T* out) {
  if constexpr (sizeof(T) == 8) {
    store<false>(_mm512_maskz_loadu_epi64(static_cast<__mmask8>(mask), p), out);
  } else if constexpr (sizeof(T) == 4) {
    store<false>(_mm512_maskz_loadu_epi32(static_cast<__mmask16>(mask), p), out);
  } else {
    store<false>(_mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask), p), out);
  }
}
#endif

// ---- 16-bit formats, a register of floats at a time

#if defined(__AVX512F__)
// Of the 16-bit halves of 16 words, those that 16 elements are made of: 1, 3, 5, …, two a word.
constexpr BitsRegister kUpperHalves = kLaneNumbers * 0x40004 + 0x30001;

// One permutation puts each element into the upper half of a word.
SDPO_INLINE FloatRegister widen(const BFloat16* p) {
  const __m512i elements = _mm512_castsi256_si512(load<__m256i>(p));
  return bits<FloatRegister>(_mm512_maskz_permutexvar_epi16(0xaaaaaaaau, bits<__m512i>(kLaneNumbers << 16), elements));
}
#else
SDPO_INLINE FloatRegister widen(const BFloat16* p) { return bits<FloatRegister>(widen_words(p) << 16); }
#endif

// Rounded to bfloat16 in the upper half of each word: nearest, ties to even; overflow runs into infinity. A NaN stays
// the one it is if its lower half is 0, which holds for those that arithmetic with bfloat16 inputs gives, or else must
// be seen to before (`quiet`).
SDPO_INLINE BitsRegister round_words(const FloatRegister& v) {
  const BitsRegister u = bits<BitsRegister>(v);
#if defined(__AVX512F__)
  const __m512i up = bits<__m512i>(u + 0x7fff);
  const __mmask16 odd = _mm512_test_epi32_mask(bits<__m512i>(u), _mm512_set1_epi32(0x10000));
  return bits<BitsRegister>(_mm512_mask_add_epi32(up, odd, up, _mm512_set1_epi32(1)));
#else
  return u + (((u >> 16) & 1) + 0x7fff);
#endif
}

// A quiet NaN that bfloat16 can hold in place of any NaN.
SDPO_INLINE float quiet(float x) {
  uint32_t word;
  std::memcpy(&word, &x, sizeof word);
  if (x != x) word = (word | 0x400000) & 0xffff0000u;
  std::memcpy(&x, &word, sizeof word);
  return x;
}

template <bool kStream>
SDPO_INLINE void narrow(const FloatRegister& v, BFloat16* p) {
#if defined(__AVX512F__)
  const __m512i upper =
      _mm512_maskz_permutexvar_epi16(0xffff, bits<__m512i>(kUpperHalves), bits<__m512i>(round_words(v)));
  const HalfRegister out = load<HalfRegister>(&upper);  // its lower half
#else
  const HalfRegister out = narrow_words(round_words(v) >> 16);
#endif
  store<kStream>(out, p);
}

#if defined(__AVX512F__)
// Of two registers, in one store of a whole line.
template <bool kStream>
SDPO_INLINE void narrow(const FloatRegister& u, const FloatRegister& v, BFloat16* p) {
  const __m512i out = _mm512_permutex2var_epi16(bits<__m512i>(round_words(u)), bits<__m512i>(kUpperHalves),
                                                bits<__m512i>(round_words(v)));
  store<kStream>(out, p);
}

SDPO_INLINE FloatRegister widen(const Float16* p) {
  return bits<FloatRegister>(_mm512_maskz_cvtph_ps(0xffff, load<__m256i>(p)));
}
template <bool kStream>
SDPO_INLINE void narrow(const FloatRegister& v, Float16* p) {
  const __m256i out = _mm512_maskz_cvtps_ph(0xffff, bits<__m512>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  store<kStream>(out, p);
}
template <bool kStream>
SDPO_INLINE void narrow(const FloatRegister& u, const FloatRegister& v, Float16* p) {
  narrow<kStream>(u, p);
  narrow<kStream>(v, p + 16);
}
#elif defined(__F16C__)
SDPO_INLINE FloatRegister widen(const Float16* p) { return bits<FloatRegister>(_mm256_cvtph_ps(load<__m128i>(p))); }
template <bool kStream>
SDPO_INLINE void narrow(const FloatRegister& v, Float16* p) {
  const __m128i out = _mm256_cvtps_ph(bits<__m256>(v), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  store<kStream>(out, p);
}
#else
SDPO_INLINE FloatRegister widen(const Float16* p) {
  // The exponent is moved by a multiplication, which also normalises subnormals exactly.
  const BitsRegister u = widen_words(p);
  const BitsRegister magnitude = u & 0x7fff;
  const FloatRegister scaled = bits<FloatRegister>(magnitude << 13) * 0x1p112f;
  const BitsRegister special = reinterpret_cast<BitsRegister>(magnitude >= splat(0x7c00)) & 0x7f800000;
  const BitsRegister quiet =
      reinterpret_cast<BitsRegister>(magnitude > splat(0x7c00)) & 0x400000;  // as the hardware does
  return bits<FloatRegister>(bits<BitsRegister>(scaled) | special | quiet | ((u & 0x8000) << 16));
}
template <bool kStream>
SDPO_INLINE void narrow(const FloatRegister& v, Float16* p) {
  const BitsRegister u = bits<BitsRegister>(v);
  const BitsRegister sign = (u & 0x80000000u) >> 16;
  const BitsRegister magnitude = u & 0x7fffffff;
  // Subnormal results: adding 0.5 lets the float unit shift and round to the 24th fraction bit, which is the last bit
  // of a half.
  const BitsRegister subnormal = bits<BitsRegister>(bits<FloatRegister>(magnitude) + 0.5f) - 0x3f000000u;
  const BitsRegister normal = (magnitude - 0x38000000u + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  const BitsRegister nan =
      reinterpret_cast<BitsRegister>(magnitude > splat(0x7f800000)) & (0x200 | ((magnitude >> 13) & 0x3ff));
  BitsRegister half = select(reinterpret_cast<BitsRegister>(magnitude < splat(0x38800000)), subnormal, normal);
  half = select(reinterpret_cast<BitsRegister>(magnitude >= splat(0x47800000)), 0x7c00 | nan, half);
  const HalfRegister out = narrow_words(half | sign);
  store<kStream>(out, p);
}
#endif

SDPO_INLINE FloatRegister widen(const float* p) { return load<FloatRegister>(p); }
template <bool kStream>
SDPO_INLINE void narrow(const FloatRegister& v, float* p) {
  store<kStream>(v, p);
}
SDPO_INLINE DoubleRegister widen(const double* p) { return load<DoubleRegister>(p); }
template <bool kStream>
SDPO_INLINE void narrow(const DoubleRegister& v, double* p) {
  store<kStream>(v, p);
}

}  // namespace
}  // namespace SDPO_KERNELS_NAMESPACE
}  // namespace sdpo::cpu
