// Sums of a tile: errors, what the reference takes from them, and the drift. Included by kernels.inl, once per
// instruction set.
#pragma once

#include <algorithm>
#include <cstdint>

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

// The moments of a tile of one branch, as far as they have come.
template <class T, bool kWeighted, bool kReference>
class BranchMoments {
 public:
  SDPO_INLINE BranchMoments(const BranchTile& of, int64_t n)
      : policy_(static_cast<const T*>(of.policy)),
        reference_(static_cast<const T*>(of.reference)),
        target_(static_cast<const T*>(of.target)),
        weights_(static_cast<const S*>(of.weights)) {
    if constexpr (!kWholeLines<T>) return;
    // Whole lines of the policy, and of the others where they lie as it does: a register that crosses two lines takes
    // longer outside the second-level cache (docs/benchmarks.md). Lanes are turned by that, each with the elements that
    // it always has, in their order; and sum_lanes adds turned lanes as it adds the others.
    const int64_t count = std::min(n, before_line(policy_));
    if (count > 0) add_part(count, kWidth - count);
  }

  SDPO_INLINE void add_up_to(int64_t end) {
    for (; next_ + kWidth <= end; next_ += kWidth) {
      sums_.add(policy_ + next_, kReference ? reference_ + next_ : nullptr, target_ + next_,
                kWeighted ? weights_ + next_ : nullptr);
    }
  }

  SDPO_INLINE BranchSums finish(int64_t n) {
    if (next_ < n) add_part(n - next_, 0);
    constexpr bool kPairs = kInPairs<T, kWeighted>;
    return {sum_lanes<kPairs>(sums_.error), 2 * sum_lanes<kPairs>(sums_.delta), sum_lanes<kPairs>(sums_.drift)};
  }

 private:
  using S = typename Lanes<T>::Scalar;
  static constexpr int64_t kWidth = Lanes<T>::kWidth;

  // The next `count` elements, in the lanes from `at` on.
  SDPO_INLINE void add_part(int64_t count, int64_t at) {
    const Padded<T> u(policy_ + next_, count, at), r(kReference ? reference_ + next_ : nullptr, count, at),
        t(target_ + next_, count, at);
    const Padded<S> e(kWeighted ? weights_ + next_ : nullptr, count, at);
    sums_.add(u.values, r.values, t.values, e.values);
    next_ += count;
  }

  const T *policy_, *reference_, *target_;
  const S* weights_;
  MomentSums<T, kWeighted, kReference> sums_;
  int64_t next_ = 0;
};

template <class T, bool kWeighted, bool kReference>
void moments_of(const BranchTile* branches, int count, int64_t n, BranchSums* out) {
  using Moments = BranchMoments<T, kWeighted, kReference>;
  const int64_t others = count == 2 ? n : 0;
  Moments first(branches[0], n), second(branches[count - 1], others);
  for (int64_t end = kTurn; end < n + kTurn; end += kTurn) {
    first.add_up_to(std::min(n, end));
    second.add_up_to(std::min(others, end));
  }
  out[0] = first.finish(n);
  if (count == 2) out[1] = second.finish(n);
}

template <class T>
void moments(const BranchTile* branches, int count, int64_t n, BranchSums* out) {
  if (count == 2 && !branches[0].like(branches[1])) {
    moments<T>(branches, 1, n, out);
    return moments<T>(branches + 1, 1, n, out + 1);
  }
  const bool reference = branches[0].reference != nullptr;
  if (branches[0].weights != nullptr) {
    return reference ? moments_of<T, true, true>(branches, count, n, out)
                     : moments_of<T, true, false>(branches, count, n, out);
  }
  return reference ? moments_of<T, false, true>(branches, count, n, out)
                   : moments_of<T, false, false>(branches, count, n, out);
}

}  // namespace
}  // namespace SDPO_KERNELS_NAMESPACE
}  // namespace sdpo::cpu
