// The inner loops of the CPU backend, compiled once per instruction set: SDPO_KERNELS_NAMESPACE and SDPO_KERNELS_NAME
// say which.
//
// Written with the compilers' vector extensions: sums always run over 16 float lanes (8 double lanes), in as many
// registers as that takes, and no multiply-add is contracted (-ffp-contract=off). So every instruction set performs the
// same operations in the same order and gives the same bits, and the lane structure, not the hardware, decides the
// order of the sums.
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels.h"
#include "lanes.inl"

namespace sdpo::cpu {
namespace SDPO_KERNELS_NAMESPACE {
namespace {

template <class T, bool kWeighted, bool kReference>
struct MomentSums {
  using L = Lanes<T>;
  using V = typename L::Vector;
  static constexpr bool kPairs = kInPairs<T, kWeighted>;
  // delta holds sum e h(d - h/2), half of what is asked for. Halving is exact, but for a subnormal h, and there what
  // remains of the product with h is the same: nothing, or h d where d is not small.
  V error{}, delta{}, drift{}, half;

  SDPO_INLINE MomentSums() { fill(half, typename L::Scalar{0.5}); }

  SDPO_INLINE void add(const T* policy, const T* reference, const T* target, const typename L::Scalar* weights) {
    const V u = read<kPairs>(policy);
    V d = difference<T>(u, read<kPairs>(target));
    V h{};
    if constexpr (kReference) h = difference<T>(u, read<kPairs>(reference));
    if constexpr (kWeighted) {
      const V e = read(weights);
      d = where_weighted<typename L::Mask>(e, d);
      error = error + e * (d * d);
      if constexpr (kReference) {
        h = where_weighted<typename L::Mask>(e, h);
        delta = delta + e * (h * minus_exact_product(d, half, h));
        drift = drift + e * (h * h);
      }
    } else {
      error = error + d * d;
      if constexpr (kReference) {
        delta = delta + h * minus_exact_product(d, half, h);
        drift = drift + h * h;
      }
    }
  }
};

template <class T, bool kWeighted, bool kReference>
BranchSums moments_of(const T* policy, const T* reference, const T* target, const typename Lanes<T>::Scalar* weights,
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
  constexpr bool kPairs = kInPairs<T, kWeighted>;
  return {sum_lanes<kPairs>(sums.error), 2 * sum_lanes<kPairs>(sums.delta), sum_lanes<kPairs>(sums.drift)};
}

template <class T>
BranchSums moments(const void* policy, const void* reference, const void* target, const void* weights, int64_t n) {
  const auto u = static_cast<const T*>(policy), r = static_cast<const T*>(reference), t = static_cast<const T*>(target);
  const auto e = static_cast<const typename Lanes<T>::Scalar*>(weights);
  if (e != nullptr) {
    return r != nullptr ? moments_of<T, true, true>(u, r, t, e, n) : moments_of<T, true, false>(u, r, t, e, n);
  }
  return r != nullptr ? moments_of<T, false, true>(u, r, t, e, n) : moments_of<T, false, false>(u, r, t, e, n);
}

template <class T>
double cross(const void* policy_c, const void* target_c, const void* policy_r, const void* target_r,
             const void* weights, int64_t n) {
  using L = Lanes<T>;
  using V = typename L::Vector;
  using S = typename L::Scalar;
  constexpr int64_t kWidth = L::kWidth;
  V sum{};
  for (int64_t i = 0; i < n; i += kWidth) {
    const int64_t k = n - i < kWidth ? n - i : kWidth;
    const Padded<T> uc(static_cast<const T*>(policy_c) + i, k), tc(static_cast<const T*>(target_c) + i, k);
    const Padded<T> ur(static_cast<const T*>(policy_r) + i, k), tr(static_cast<const T*>(target_r) + i, k);
    const V dc = read(uc.values) - read(tc.values), dr = read(ur.values) - read(tr.values);
    if (weights == nullptr) {
      sum = sum + dc * dr;
    } else {
      const Padded<S> w(static_cast<const S*>(weights) + i, k);
      const V e = read(w.values);
      sum = sum + e * (where_weighted<typename L::Mask>(e, dc) * where_weighted<typename L::Mask>(e, dr));
    }
  }
  return sum_lanes<false>(sum);
}

template <class T>
struct GradientArguments {
  using S = typename Lanes<T>::Scalar;
  const T *policy, *reference, *target;
  const S* weights;
  typename Lanes<T>::Vector a, b;
  T* out;
};

template <class T, bool kWeighted, bool kDrift>
SDPO_INLINE typename Lanes<T>::Vector gradient_vector(const GradientArguments<T>& of, int64_t i) {
  using L = Lanes<T>;
  using V = typename L::Vector;
  constexpr bool kPairs = kInPairs<T, kWeighted>;
  const V u = read<kPairs>(of.policy + i);
  V g = of.a * difference<T>(u, read<kPairs>(of.target + i));
  if constexpr (kDrift) g = g + of.b * difference<T>(u, read<kPairs>(of.reference + i));
  if constexpr (kWeighted) {
    const V e = read(of.weights + i);
    g = e * where_weighted<typename L::Mask>(e, g);
  }
  return g;
}

// A line of the result from two vectors. Without weights the elements of bfloat16 need no order: it takes fewer
// instructions to tell even ones from odd ones than one half from the other.
template <bool kWeighted, bool kDrift, bool kStream, class T>
SDPO_INLINE void gradient_line(const GradientArguments<T>& of, int64_t i) {
  if constexpr (std::is_same_v<T, BFloat16> && !kWeighted) {
    using V = Pack<FloatRegister, 2>;
    const V a{of.a, of.a}, b{of.b, of.b};
    V u, t, r;
    unpack_pairs(of.policy + i, u);
    unpack_pairs(of.target + i, t);
    V g = a * (u - t);
    if constexpr (kDrift) {
      unpack_pairs(of.reference + i, r);
      g = g + b * (u - r);
    }
    pack_pairs<kStream>(g, of.out + i);
  } else {
    constexpr int64_t kWidth = Lanes<T>::kWidth;
    const auto g = gradient_vector<T, kWeighted, kDrift>(of, i);
    narrow<kStream>(g.r, gradient_vector<T, kWeighted, kDrift>(of, i + kWidth).r, of.out + i);
  }
}

// Elements [i, i + k) of a tile, fewer than the lanes.
template <class T, bool kWeighted, bool kDrift>
SDPO_INLINE void gradient_part(const GradientArguments<T>& of, int64_t i, int64_t k) {
  const Padded<T> u(of.policy + i, k), r(kDrift ? of.reference + i : nullptr, k), t(of.target + i, k);
  const Padded<typename Lanes<T>::Scalar> e(kWeighted ? of.weights + i : nullptr, k);
  const GradientArguments<T> part{u.values, r.values, t.values, e.values, of.a, of.b, nullptr};
  Padded<T> g(nullptr, 0);
  write<kInPairs<T, kWeighted>, false>(gradient_vector<T, kWeighted, kDrift>(part, 0), g.values);
  std::memcpy(of.out + i, g.values, static_cast<size_t>(k) * sizeof(T));
}

template <class T, bool kWeighted, bool kDrift, bool kStream>
SDPO_INLINE int64_t gradient_vectors(const GradientArguments<T>& of, int64_t i, int64_t n) {
  constexpr int64_t kWidth = Lanes<T>::kWidth;
  if constexpr (kHalfLines<T>) {
    for (; i + 2 * kWidth <= n; i += 2 * kWidth) gradient_line<kWeighted, kDrift, kStream>(of, i);
  }
  for (; i + kWidth <= n; i += kWidth) {
    write<kInPairs<T, kWeighted>, kStream>(gradient_vector<T, kWeighted, kDrift>(of, i), of.out + i);
  }
  return i;
}

template <class T, bool kWeighted, bool kDrift>
void gradient_of(const GradientArguments<T>& of, int64_t n, bool stream) {
  constexpr bool kPairs = kInPairs<T, kWeighted>;
  constexpr int64_t kWidth = Lanes<T>::kWidth;
  // Whole lines of the result: stores that cross lines take twice as long, and streamed ones must not.
  constexpr int64_t kLine = 64;
  const int64_t misplaced = static_cast<int64_t>(reinterpret_cast<uintptr_t>(of.out) % kLine);
  const int64_t begin = misplaced == 0 ? 0 : (kLine - misplaced) / static_cast<int64_t>(sizeof(T));
  if (n < begin + kWidth) {
    for (int64_t i = 0; i < n; i += kWidth) {
      gradient_part<T, kWeighted, kDrift>(of, i, n - i < kWidth ? n - i : kWidth);
    }
    return;
  }
  const int64_t between = begin < kWidth ? 0 : begin - kWidth;  // 16 bits: two vectors to the first line
  // What is left at both ends, by vectors that reach into the lines between and are read before `out`, which may be an
  // input, is written.
  const auto first = gradient_vector<T, kWeighted, kDrift>(of, 0);
  const auto second = gradient_vector<T, kWeighted, kDrift>(of, between);
  const auto last = gradient_vector<T, kWeighted, kDrift>(of, n - kWidth);
  const int64_t end = stream ? gradient_vectors<T, kWeighted, kDrift, true>(of, begin, n)
                             : gradient_vectors<T, kWeighted, kDrift, false>(of, begin, n);
  if (begin > 0) {
    write<kPairs, false>(first, of.out);
    write<kPairs, false>(second, of.out + between);
  }
  if (end < n) write<kPairs, false>(last, of.out + n - kWidth);
#if defined(__x86_64__)
  if (stream) _mm_sfence();  // streamed stores are in order with others from here on
#endif
}

template <class T>
void gradient(const void* policy, const void* reference, const void* target, const void* weights, int64_t n, double a,
              double b, void* out, bool stream) {
  using S = typename Lanes<T>::Scalar;
  GradientArguments<T> of{static_cast<const T*>(policy),
                          static_cast<const T*>(reference),
                          static_cast<const T*>(target),
                          static_cast<const S*>(weights),
                          {},
                          {},
                          static_cast<T*>(out)};
  // What a NaN coefficient carries is dropped: see `round_words`.
  constexpr S kNaN = std::numeric_limits<S>::quiet_NaN();
  fill(of.a, a != a ? kNaN : static_cast<S>(a));
  fill(of.b, b != b ? kNaN : static_cast<S>(b));
  if (weights != nullptr) {
    reference != nullptr ? gradient_of<T, true, true>(of, n, stream) : gradient_of<T, true, false>(of, n, stream);
  } else {
    reference != nullptr ? gradient_of<T, false, true>(of, n, stream) : gradient_of<T, false, false>(of, n, stream);
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
    const Padded<S> part(e + i, k);
    sum = sum + read(part.values);
    for (int64_t j = 0; j < k; ++j) lowest = part.values[j] < lowest ? part.values[j] : lowest;
  }
  return {sum_lanes<false>(sum), static_cast<double>(lowest)};
}

template <class T, class S>
void widen_all(const void* in, void* out, int64_t n) {
  const auto x = static_cast<const T*>(in);
  const auto y = static_cast<S*>(out);
  if constexpr (sizeof(T) >= 4) {
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<S>(load<T>(x + i));
  } else {
    constexpr int64_t kWidth = Lanes<T>::kWidth;
    for (int64_t i = 0; i < n; i += kWidth) {
      const int64_t k = n - i < kWidth ? n - i : kWidth;
      float lanes[kWidth];
      pack<false>(read(Padded<T>(x + i, k).values), lanes);
      for (int64_t j = 0; j < k; ++j) y[i + j] = static_cast<S>(lanes[j]);
    }
  }
}

// A float32 for rounding on to 16 bits: rounding twice to nearest could turn a value just off a tie into the tie, so a
// double that does not fit is cut to the float32 towards zero and marked as inexact in the last bit (rounding to odd).
SDPO_INLINE float to_float32(float x) { return x; }
SDPO_INLINE float to_float32(double x) {
  const float nearest = static_cast<float>(x);
  if (static_cast<double>(nearest) == x) return nearest;
  uint32_t word;
  std::memcpy(&word, &nearest, sizeof word);
  if (std::fabs(static_cast<double>(nearest)) > std::fabs(x)) --word;
  word |= 1;
  float odd;
  std::memcpy(&odd, &word, sizeof odd);
  return odd;
}

template <class T, class S>
void narrow_all(const void* in, void* out, int64_t n) {
  const auto x = static_cast<const S*>(in);
  const auto y = static_cast<T*>(out);
  if constexpr (sizeof(T) >= 4) {
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<T>(x[i]);
  } else {
    constexpr int64_t kWidth = Lanes<T>::kWidth;
    for (int64_t i = 0; i < n; i += kWidth) {
      const int64_t k = n - i < kWidth ? n - i : kWidth;
      float lanes[kWidth] = {};
      for (int64_t j = 0; j < k; ++j) lanes[j] = to_float32(x[i + j]);
      if constexpr (std::is_same_v<T, BFloat16>) {
        for (float& lane : lanes) lane = quiet(lane);
      }
      Padded<T> rounded(nullptr, 0);
      pack<false>(read(lanes), rounded.values);
      std::memcpy(y + i, rounded.values, static_cast<size_t>(k) * sizeof(T));
    }
  }
}

// In the order of SDPO_DTYPES.
#define SDPO_PER_DTYPE(K) {K<double>, K<float>, K<Float16>, K<BFloat16>}
#define SDPO_PER_DTYPE_BOTH(K)                                                  \
  {                                                                             \
    {K<double, float>, K<double, double>}, {K<float, float>, K<float, double>}, \
        {K<Float16, float>, K<Float16, double>}, {                              \
      K<BFloat16, float>, K<BFloat16, double>                                   \
    }                                                                           \
  }

const KernelTable kTable = {SDPO_KERNELS_NAME,
                            SDPO_PER_DTYPE(moments),
                            SDPO_PER_DTYPE(cross),
                            SDPO_PER_DTYPE(gradient),
                            {weights<float>, weights<double>},
                            SDPO_PER_DTYPE_BOTH(widen_all),
                            SDPO_PER_DTYPE_BOTH(narrow_all)};

}  // namespace
}  // namespace SDPO_KERNELS_NAMESPACE
}  // namespace sdpo::cpu
