// Philox4x32-10, a counter-based generator (Salmon et al., SC 2011), and normals by Box-Muller, for host and device
// compilers.
#pragma once

#include <cmath>
#include <cstdint>

#include "elementary.h"

namespace sdpo {

struct Philox4 {
  uint32_t v[4];
};

// The four words of a 128-bit counter (block, 0) under a 64-bit key: ten rounds, key schedule by Weyl constants.
SDPO_HD inline Philox4 philox4x32_10(uint64_t block, uint64_t key) {
  uint32_t c0 = static_cast<uint32_t>(block), c1 = static_cast<uint32_t>(block >> 32), c2 = 0, c3 = 0;
  uint32_t k0 = static_cast<uint32_t>(key), k1 = static_cast<uint32_t>(key >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = static_cast<uint64_t>(0xD2511F53u) * c0;
    const uint64_t p1 = static_cast<uint64_t>(0xCD9E8D57u) * c2;
    const uint32_t n0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    const uint32_t n2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c1 = static_cast<uint32_t>(p1);
    c3 = static_cast<uint32_t>(p0);
    c0 = n0;
    c2 = n2;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

// How far apart the normals of a host and a device may lie, relative to their radius r. Libraries of mathematics differ
// in the last place. With u = 2^-53, and one ulp of x being 2 u |x| at most:
//   sine, cosine:                1.25 ulp on the host, 2 ulp of sincospi on a device                2.5 u r + 4 u r
//   the radius:                  log within 1.25 and 1 ulp, halved by the root, which is rounded    2.25 u r + 2 u r
//   the product, on each:        rounded (u)                                                        2 u r
// The radius is at most that of the smallest uniform, 2^-33: sqrt(66 log 2), 6.76.
constexpr double kNormalError = 13 * 0x1p-53;

// Two independent standard normals from two words; the uniforms lie strictly inside (0, 1), so the logarithm is finite.
SDPO_HD inline void box_muller(uint32_t x0, uint32_t x1, double out[2]) {
  const double u1 = (static_cast<double>(x0) + 0.5) * 0x1p-32;
  const double u2 = (static_cast<double>(x1) + 0.5) * 0x1p-32;
  const double radius = sqrt(-2.0 * elementary::log(u1));
  elementary::cos_sin_of_turns(u2, &out[0], &out[1]);
  out[0] *= radius;
  out[1] *= radius;
}

}  // namespace sdpo
