// The elementary functions of the host against the wider long double of the system's library, and their bits.
//
// Prints "<function> <largest error in ulp> <hash of the bits>" per function, and "special <ok or what is wrong>".

#include "../../../native/core/elementary.h"

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <limits>
#include <vector>

#include "../../../native/core/philox.h"

using namespace sdpo;

namespace {

// |got - exact| in units in the last place of a double of the size of `exact`.
double ulps(double got, long double exact) {
  if (std::isinf(got) || got == 0) return got == static_cast<double>(exact) ? 0 : INFINITY;
  int exponent = 0;
  static_cast<void>(std::frexp(exact, &exponent));
  const long double ulp = std::ldexp(1.0L, (exponent < -1021 ? -1021 : exponent) - 53);
  return static_cast<double>(std::fabs(static_cast<long double>(got) - exact) / ulp);
}

struct Report {
  const char* name;
  double worst = 0;
  uint64_t hash = 1469598103934665603u;

  void add(double got, long double exact) {
    worst = std::fmax(worst, ulps(got, exact));
    hash = (hash ^ elementary::bits_of(got)) * 1099511628211u;
  }
  ~Report() { std::printf("%s %.4f %016" PRIx64 "\n", name, worst, hash); }
};

// Uniform numbers in [low, high), the same everywhere.
struct Uniform {
  uint64_t next = 0;
  double operator()(double low, double high) {
    const Philox4 block = philox4x32_10(next++, 17);
    return low + (high - low) * ((block.v[0] * 0x1p32 + block.v[1]) * 0x1p-64);
  }
};

constexpr int kCount = 300000;

void check(bool good, const char* what) { std::printf("special %s\n", good ? "ok" : what); }

bool same(double x, double y) { return elementary::bits_of(x) == elementary::bits_of(y) || (x != x && y != y); }

}  // namespace

int main() {
  Uniform uniform;
  {
    Report report{"exp"};
    for (int i = 0; i < kCount; ++i) {
      const double x = i % 3 == 0 ? uniform(-1, 1) : i % 3 == 1 ? uniform(-708, 709.7) : uniform(-40, 5);
      report.add(elementary::exp(x), std::exp(static_cast<long double>(x)));
    }
  }
  {
    Report report{"expm1"};
    for (int i = 0; i < kCount; ++i) {
      const double x = i % 3 == 0   ? uniform(-1.2, 1.2)
                       : i % 3 == 1 ? uniform(-50, 60)
                                    : std::ldexp(uniform(-1, 1), -(i % 70));
      report.add(elementary::expm1(x), std::expm1(static_cast<long double>(x)));
    }
  }
  {
    Report report{"log"};
    for (int i = 0; i < kCount; ++i) {
      const double x = i % 3 == 0   ? uniform(0.3, 3)
                       : i % 3 == 1 ? std::ldexp(uniform(0.5, 1), i % 2098 - 1073)
                                    : uniform(0.9, 1.1);
      report.add(elementary::log(x), std::log(static_cast<long double>(x)));
    }
  }
  {
    Report report{"log1p"};
    for (int i = 0; i < kCount; ++i) {
      const double x = i % 3 == 0   ? uniform(-0.999999, 3)
                       : i % 3 == 1 ? std::ldexp(uniform(-1, 1), -(i % 80))
                                    : uniform(0, 1);
      report.add(elementary::log1p(x), std::log1p(static_cast<long double>(x)));
    }
  }
  {
    Report sine{"sine"};
    Report cosine{"cosine"};
    const long double turn = 8 * std::atan(1.0L);
    for (int i = 0; i < kCount; ++i) {
      // As in box_muller; every fourth next to a multiple of an eighth of a turn.
      const double word = i % 4 == 0 ? i / 4 % 9 * 0x1p29 : std::floor(uniform(0, 0x1p32));
      const double t = (word - (word == 0x1p32) + 0.5) * 0x1p-32;
      double c = 0, s = 0;
      elementary::cos_sin_of_turns(t, &c, &s);
      const int quarter = static_cast<int>(4 * t + 0.5) % 4;
      const long double a = turn * (static_cast<long double>(t) - 0.25L * static_cast<int>(4 * t + 0.5));
      const long double sin_a = std::sin(a), cos_a = std::cos(a);
      const long double cosines[] = {cos_a, -sin_a, -cos_a, sin_a}, sines[] = {sin_a, cos_a, -sin_a, -cos_a};
      cosine.add(c, cosines[quarter]);
      sine.add(s, sines[quarter]);
    }
  }
  const double inf = INFINITY, nan = NAN, least = std::numeric_limits<double>::denorm_min();
  check(same(elementary::exp(0), 1) && same(elementary::exp(-0.0), 1) && same(elementary::exp(inf), inf) &&
            same(elementary::exp(-inf), 0) && same(elementary::exp(nan), nan) && same(elementary::exp(709.79), inf) &&
            same(elementary::exp(-745.1), least) && same(elementary::exp(-745.2), 0),
        "exp");
  check(same(elementary::expm1(0), 0) && same(elementary::expm1(-0.0), -0.0) && same(elementary::expm1(inf), inf) &&
            same(elementary::expm1(-inf), -1) && same(elementary::expm1(nan), nan) &&
            same(elementary::expm1(least), least) && same(elementary::expm1(710), inf),
        "expm1");
  check(same(elementary::log(0), -inf) && same(elementary::log(-0.0), -inf) && same(elementary::log(1), 0) &&
            same(elementary::log(inf), inf) && same(elementary::log(-1), nan) && same(elementary::log(nan), nan),
        "log");
  check(same(elementary::log1p(0), 0) && same(elementary::log1p(-0.0), -0.0) && same(elementary::log1p(-1), -inf) &&
            same(elementary::log1p(inf), inf) && same(elementary::log1p(-2), nan) &&
            same(elementary::log1p(nan), nan) && same(elementary::log1p(-least), -least),
        "log1p");
  return 0;
}
