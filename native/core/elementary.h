// Exponentials, logarithms, sine and cosine with one code for every processor, so that results on the host do not
// depend on the library of mathematics: glibc chooses other code where there is FMA, musl has code of its own.
//
// On the host they are made of additions, multiplications, divisions and integer operations of IEEE 754 binary64
// rounded to nearest, whose results are fixed; nothing is contracted (-ffp-contract=off). On a device they are CUDA's
// functions.
//
// All are series about the middle of a reduced range, and what their leading terms lose in rounding is kept in a second
// number (`Sum`), so that a result is off by its last rounding (1/2 ulp) and by the roundings of terms that are smaller
// than it by the stated factor. With u = 2^-53:
//
//   exp, expm1   |r| <= log(2)/2; behind 1 + r and r come terms of at most 0.26 of the result
//   log, log1p   m in [sqrt(1/2), sqrt(2)), f = m - 1, s = f/(2 + f); behind f comes s(f - R), 0.21 |f|
//   sin, cos     |a| <= pi/4; behind a and 1 - a^2/2 come a^3/6, 0.11 |a|, and a^4/24, 0.016
//
// So each is off by less than 1.25 ulp.
//
// A result of exp below 2^-1022 is rounded twice. test/native/elementary.test.ts compares all with exact values.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "host_device.h"

namespace sdpo::elementary {

// The largest error of a result on the host, in units in its last place.
constexpr double kUlps = 1.25;

// ---- On the host

// log 2 in two parts: the first has 42 bits, so that its product with an exponent is exact.
constexpr double kLog2High = 0x1.62e42fefa38p-1, kLog2Low = 0x1.ef35793c7673p-45, kInverseLog2 = 0x1.71547652b82fep+0;
// 2 pi in two parts: the first has 22 bits, so that its product with a multiple of 2^-33 up to 1/8 is exact.
constexpr double kTurnHigh = 0x1.921fbp+2, kTurnLow = 0x1.5110b4611a626p-20;

inline uint64_t bits_of(double x) {
  uint64_t word;
  std::memcpy(&word, &x, sizeof word);
  return word;
}

inline double from_bits(uint64_t word) {
  double x;
  std::memcpy(&x, &word, sizeof x);
  return x;
}

// 2^k for a k from -1022 to 1023.
inline double power_of_two(int k) { return from_bits(static_cast<uint64_t>(k + 1023) << 52); }

// A number and what its rounding lost.
struct Sum {
  double high, low;
};

// a + b where |a| >= |b| or a is 0.
inline Sum sum_of_ordered(double a, double b) {
  const double high = a + b;
  return {high, b - (high - a)};
}

// a + b of any a and b.
inline Sum sum_of(double a, double b) {
  const double high = a + b, part = high - a;
  return {high, (a - (high - part)) + (b - part)};
}

// x = k log 2 + r, and tail = e^r - 1 - r. The series ends where r^14/14! is below 2^-58.
struct ReducedExponent {
  int k;
  Sum r;
  double tail;
};

inline ReducedExponent reduce_exponent(double x) {
  ReducedExponent out;
  out.k = static_cast<int>(x * kInverseLog2 + (x < 0 ? -0.5 : 0.5));
  const double k = out.k;
  const double rest = x - k * kLog2High;  // exact
  const double r = rest - k * kLog2Low;
  out.r = {r, (rest - r) - k * kLog2Low};
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  out.tail = r * r * p;
  return out;
}

inline double host_exp(double x) {
  if (!(x > -746)) return x != x ? x : 0;
  if (x > 710) return INFINITY;
  const ReducedExponent e = reduce_exponent(x);
  const Sum y = sum_of_ordered(1, e.r.high);
  const double value = y.high + (y.low + (e.r.low + e.tail));
  const int half = e.k / 2;  // the power itself may be out of range
  return value * power_of_two(half) * power_of_two(e.k - half);
}

inline double host_expm1(double x) {
  if (!(x > -40)) return x != x ? x : -1;  // e^-40 is 0.04 ulp of 1
  if (x > 45) return host_exp(x);          // of which 1 is less than 0.01 ulp
  if (std::fabs(x) < 0x1p-54) return x;
  const ReducedExponent e = reduce_exponent(x);
  const double scale = power_of_two(e.k);
  // (2^k - 1) + 2^k (r + tail)
  const Sum whole = sum_of(scale, -1), y = sum_of(whole.high, scale * e.r.high);
  return y.high + (y.low + (whole.low + scale * (e.r.low + e.tail)));
}

// log(1 + f) = f - correction, where f is in [sqrt(1/2) - 1, sqrt(2) - 1). With s = f/(2 + f) it is
// 2 artanh s = 2s + s R, R = 2 (s^2/3 + s^4/5 + ...), and 2s = f - s f. The series ends where 2 s^24/25 is below 2^-64.
inline double log_correction(double f) {
  const double s = f / (2 + f), z = s * s;
  const double z2 = z * z, z4 = z2 * z2;
  const double r0 = (2.0 / 3 + z * (2.0 / 5)) + z2 * (2.0 / 7 + z * (2.0 / 9));
  const double r1 = (2.0 / 11 + z * (2.0 / 13)) + z2 * (2.0 / 15 + z * (2.0 / 17));
  const double r2 = (2.0 / 19 + z * (2.0 / 21)) + z2 * (2.0 / 23);
  const double r = r0 + z4 * (r1 + z4 * r2);
  return s * (f - z * r);
}

// log x of a positive normal x, plus a small number.
inline double log_of_normal(double x, double more, int exponent) {
  constexpr uint64_t kRootOfHalf = 0x3fe6a09e667f3bcd;
  // x = 2^k (1 + f), without a branch: which half of an octave x is in is a matter of chance.
  const auto octaves = static_cast<int64_t>(bits_of(x) - kRootOfHalf) >> 52;
  const double f = from_bits(bits_of(x) - (static_cast<uint64_t>(octaves) << 52)) - 1;
  const double k = static_cast<double>(exponent + octaves);
  const Sum y = sum_of_ordered(k * kLog2High, f);
  return y.high + (y.low + ((k * kLog2Low + more) - log_correction(f)));
}

inline double host_log(double x) {
  if (!(x > 0)) return x == 0 ? -INFINITY : NAN;
  if (std::isinf(x)) return x;
  return x < 0x1p-1022 ? log_of_normal(x * 0x1p54, 0, -54) : log_of_normal(x, 0, 0);
}

inline double host_log1p(double x) {
  if (!(x > -1)) return x == -1 ? -INFINITY : NAN;
  if (std::isinf(x)) return x;
  if (x > -0.29 && x < 0.41) return std::fabs(x) < 0x1p-54 ? x : x - log_correction(x);
  const Sum y = sum_of(1, x);
  return log_of_normal(y.high, y.low / y.high, 0);
}

// Cosine and sine of 2 pi t, for a multiple t of 2^-33 in [0, 1]: of which a quarter turn is taken away exactly.
inline void host_cos_sin_of_turns(double t, double* cosine, double* sine) {
  const int quarter = static_cast<int>(4 * t + 0.5);
  const double part = t - 0.25 * quarter;
  const Sum a = sum_of_ordered(part * kTurnHigh, part * kTurnLow);
  const double z = a.high * a.high;
  // Both series end where the next term is below 2^-58 of the result.
  double s = 1.0 / 355687428096000;
  s = s * z - 1.0 / 1307674368000;
  s = s * z + 1.0 / 6227020800;
  s = s * z - 1.0 / 39916800;
  s = s * z + 1.0 / 362880;
  s = s * z - 1.0 / 5040;
  s = s * z + 1.0 / 120;
  s = s * z - 1.0 / 6;
  double c = 1.0 / 20922789888000;
  c = c * z - 1.0 / 87178291200;
  c = c * z + 1.0 / 479001600;
  c = c * z - 1.0 / 3628800;
  c = c * z + 1.0 / 40320;
  c = c * z - 1.0 / 720;
  c = c * z + 1.0 / 24;
  const Sum one = sum_of_ordered(1, -0.5 * z);
  const double sin_a = a.high + (a.low + a.high * (z * s));
  const double cos_a = one.high + (one.low + (z * (z * c) - a.high * a.low));
  const bool swapped = (quarter & 1) != 0;
  const double x = swapped ? sin_a : cos_a, y = swapped ? cos_a : sin_a;
  *cosine = quarter == 1 || quarter == 2 ? -x : x;
  *sine = quarter == 2 || quarter == 3 ? -y : y;
}

// ---- On both

SDPO_HD inline double exp(double x) {
#if defined(__CUDA_ARCH__)
  return ::exp(x);
#else
  return host_exp(x);
#endif
}

SDPO_HD inline double expm1(double x) {
#if defined(__CUDA_ARCH__)
  return ::expm1(x);
#else
  return host_expm1(x);
#endif
}

SDPO_HD inline double log(double x) {
#if defined(__CUDA_ARCH__)
  return ::log(x);
#else
  return host_log(x);
#endif
}

SDPO_HD inline double log1p(double x) {
#if defined(__CUDA_ARCH__)
  return ::log1p(x);
#else
  return host_log1p(x);
#endif
}

SDPO_HD inline void cos_sin_of_turns(double t, double* cosine, double* sine) {
#if defined(__CUDA_ARCH__)
  sincospi(2.0 * t, sine, cosine);  // needs no argument reduction, and so no stack
#else
  host_cos_sin_of_turns(t, cosine, sine);
#endif
}

}  // namespace sdpo::elementary
