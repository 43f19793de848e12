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

#include "gradients.inl"
#include "kernels.h"
#include "lanes.inl"
#include "moments.inl"

namespace sdpo::cpu {
namespace SDPO_KERNELS_NAMESPACE {
namespace {

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
                            SDPO_PER_DTYPE(gradients),
                            {weights<float>, weights<double>},
                            SDPO_PER_DTYPE_BOTH(widen_all),
                            SDPO_PER_DTYPE_BOTH(narrow_all)};

}  // namespace
}  // namespace SDPO_KERNELS_NAMESPACE
}  // namespace sdpo::cpu
