// Philox4x32-10, a counter-based generator (Salmon et al., SC 2011), and normals by Box-Muller, for host and device
// compilers.
#pragma once

#include <cmath>
#include <cstdint>

#if defined(__CUDACC__)
#define SDPO_PHILOX_HD __host__ __device__
#else
#define SDPO_PHILOX_HD
#endif

namespace sdpo {

struct Philox4 {
  uint32_t v[4];
};

// The four words of a 128-bit counter (block, 0) under a 64-bit key: ten rounds, key schedule by Weyl constants.
SDPO_PHILOX_HD inline Philox4 philox4x32_10(uint64_t block, uint64_t key) {
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
// in the last place, and the host rounds the angle. With u = 2^-53, and one ulp of x being 2 u |x| at most:
//   the host's angle, below 8:   2 pi rounded (4 u) times u2 < 1, and the product rounded (4 u)           8 u r
//   sine, cosine:                1 ulp on the host, 2 ulp of sincospi on a device                     2 u r + 4 u r
//   the radius, on each:         log within 1 ulp, halved by the root (u), which is rounded (u)           4 u r
//   the product, on each:        rounded (u)                                                              2 u r
// The radius is at most that of the smallest uniform, 2^-33: sqrt(66 log 2), 6.76.
constexpr double kNormalError = 20 * 0x1p-53;

// Two independent standard normals from two words; the uniforms lie strictly inside (0, 1), so the logarithm is finite.
SDPO_PHILOX_HD inline void box_muller(uint32_t x0, uint32_t x1, double out[2]) {
  const double u1 = (static_cast<double>(x0) + 0.5) * 0x1p-32;
  const double u2 = (static_cast<double>(x1) + 0.5) * 0x1p-32;
  const double radius = sqrt(-2.0 * log(u1));
#if defined(__CUDA_ARCH__)
  sincospi(2.0 * u2, &out[1], &out[0]);  // needs no argument reduction, and so no stack
  out[0] *= radius;
  out[1] *= radius;
#else
  const double angle = 6.283185307179586476925286766559 * u2;
  out[0] = radius * cos(angle);
  out[1] = radius * sin(angle);
#endif
}

}  // namespace sdpo
