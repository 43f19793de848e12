// What lets host and device compilers read the same functions.
#pragma once

#include <cfloat>
#include <cmath>

#if defined(__CUDACC__)
#define SDPO_HD __host__ __device__
#else
#define SDPO_HD
#endif

namespace sdpo {

// Spelt out, since std::isfinite and its kin are not found under one name by host and device compilers.
SDPO_HD inline bool is_finite(double x) { return fabs(x) <= DBL_MAX; }
SDPO_HD inline bool is_infinite(double x) { return fabs(x) > DBL_MAX; }

}  // namespace sdpo
