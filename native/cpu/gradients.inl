// Gradients of a span. Included by kernels.inl, once per instruction set.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "kernels.h"
#include "lanes.inl"

namespace sdpo::cpu {
namespace SDPO_KERNELS_NAMESPACE {
namespace {

template <class T>
struct GradientArguments {
  using S = typename Lanes<T>::Scalar;
  const T *policy, *reference, *target;
  const S* weights;
  typename Lanes<T>::Vector a, b;
  T* out;

  SDPO_INLINE explicit GradientArguments(const BranchGradient& branch)
      : policy(static_cast<const T*>(branch.of.policy)),
        reference(static_cast<const T*>(branch.of.reference)),
        target(static_cast<const T*>(branch.of.target)),
        weights(static_cast<const S*>(branch.of.weights)),
        out(static_cast<T*>(branch.out)) {
    // What a NaN coefficient carries is dropped: see `round_words`.
    constexpr S kNaN = std::numeric_limits<S>::quiet_NaN();
    fill(a, branch.a != branch.a ? kNaN : static_cast<S>(branch.a));
    fill(b, branch.b != branch.b ? kNaN : static_cast<S>(branch.b));
  }
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

// A line of the result from two vectors. Inputs are read half a line at a time, since they may begin elsewhere in a
// line: loads of 64 bytes would all cross two, and take longer outside the second-level cache.
template <bool kWeighted, bool kDrift, bool kStream, class T>
SDPO_INLINE void gradient_line(const GradientArguments<T>& of, int64_t i) {
  constexpr int64_t kWidth = Lanes<T>::kWidth;
  const auto g = gradient_vector<T, kWeighted, kDrift>(of, i);
  narrow<kStream>(g.r, gradient_vector<T, kWeighted, kDrift>(of, i + kWidth).r, of.out + i);
}

// Elements [i, i + k) of a tile, fewer than the lanes.
template <class T, bool kWeighted, bool kDrift>
SDPO_INLINE void gradient_part(const GradientArguments<T>& of, int64_t i, int64_t k) {
  const Padded<T> u(of.policy + i, k), r(kDrift ? of.reference + i : nullptr, k), t(of.target + i, k);
  const Padded<typename Lanes<T>::Scalar> e(kWeighted ? of.weights + i : nullptr, k);
  GradientArguments<T> part = of;
  part.policy = u.values;
  part.reference = r.values;
  part.target = t.values;
  part.weights = e.values;
  Padded<T> g(nullptr, 0);
  write<kInPairs<T, kWeighted>, false>(gradient_vector<T, kWeighted, kDrift>(part, 0), g.values);
  std::memcpy(of.out + i, g.values, static_cast<size_t>(k) * sizeof(T));
}

// The gradient of a span of one branch, as far as it has come: whole lines of the result, since stores that cross lines
// take twice as long, and streamed ones must not. What is left at both ends is written last, by vectors that reach into
// the lines between and are read first, since the result may be written over an input.
template <class T, bool kWeighted, bool kDrift>
class BranchGradients {
 public:
  SDPO_INLINE BranchGradients(const BranchGradient& branch, int64_t n)
      : of_(branch), n_(n), begin_(before_line(of_.out)), next_(begin_) {
    if (is_short()) return;
    between_ = begin_ < kWidth ? 0 : begin_ - kWidth;  // 16 bits: two vectors to the first line
    first_ = gradient_vector<T, kWeighted, kDrift>(of_, 0);
    second_ = gradient_vector<T, kWeighted, kDrift>(of_, between_);
    last_ = gradient_vector<T, kWeighted, kDrift>(of_, n_ - kWidth);
  }

  template <bool kStream>
  SDPO_INLINE void write_up_to(int64_t end) {
    if constexpr (kHalfLines<T>) {
      for (; next_ + 2 * kWidth <= end; next_ += 2 * kWidth) gradient_line<kWeighted, kDrift, kStream>(of_, next_);
    } else {
      for (; next_ + kWidth <= end; next_ += kWidth) write_vector<kStream>();
    }
  }

  SDPO_INLINE void finish() {
    if (is_short()) {
      for (int64_t i = 0; i < n_; i += kWidth) {
        gradient_part<T, kWeighted, kDrift>(of_, i, n_ - i < kWidth ? n_ - i : kWidth);
      }
      return;
    }
    if (next_ + kWidth <= n_) {  // half a line
      write_vector<false>();
      next_ += kWidth;
    }
    if (begin_ > 0) {
      write<kPairs, false>(first_, of_.out);
      write<kPairs, false>(second_, of_.out + between_);
    }
    if (next_ < n_) write<kPairs, false>(last_, of_.out + n_ - kWidth);
  }

 private:
  static constexpr bool kPairs = kInPairs<T, kWeighted>;
  static constexpr int64_t kWidth = Lanes<T>::kWidth;

  SDPO_INLINE bool is_short() const { return n_ < begin_ + kWidth; }

  template <bool kStream>
  SDPO_INLINE void write_vector() const {
    write<kPairs, kStream>(gradient_vector<T, kWeighted, kDrift>(of_, next_), of_.out + next_);
  }

  const GradientArguments<T> of_;
  const int64_t n_, begin_;
  int64_t next_, between_ = 0;
  typename Lanes<T>::Vector first_{}, second_{}, last_{};
};

template <class T, bool kWeighted, bool kDrift>
void gradients_of(const BranchGradient* branches, int count, int64_t n, bool stream) {
  using Gradients = BranchGradients<T, kWeighted, kDrift>;
  const int64_t others = count == 2 ? n : 0;
  Gradients first(branches[0], n), second(branches[count - 1], others);
  for (int64_t end = kTurn; end < n + kTurn; end += kTurn) {
    if (stream) {
      first.template write_up_to<true>(std::min(n, end));
      second.template write_up_to<true>(std::min(others, end));
    } else {
      first.template write_up_to<false>(std::min(n, end));
      second.template write_up_to<false>(std::min(others, end));
    }
  }
  first.finish();
  second.finish();
#if defined(__x86_64__)
  if (stream) _mm_sfence();  // streamed stores are in order with others from here on
#endif
}

template <class T>
void gradients(const BranchGradient* branches, int count, int64_t n, bool stream) {
  if (count == 2 && !branches[0].of.like(branches[1].of)) {
    gradients<T>(branches, 1, n, stream);
    return gradients<T>(branches + 1, 1, n, stream);
  }
  const bool drift = branches[0].of.reference != nullptr;
  if (branches[0].of.weights != nullptr) {
    drift ? gradients_of<T, true, true>(branches, count, n, stream)
          : gradients_of<T, true, false>(branches, count, n, stream);
  } else {
    drift ? gradients_of<T, false, true>(branches, count, n, stream)
          : gradients_of<T, false, false>(branches, count, n, stream);
  }
}

}  // namespace
}  // namespace SDPO_KERNELS_NAMESPACE
}  // namespace sdpo::cpu
