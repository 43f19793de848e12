// Counts what a host program expected and what came, and says so in its exit code.
#pragma once

#include <cstdio>
#include <cstdlib>

inline long g_checks = 0, g_failures = 0;

// A condition, and a printf message for when it does not hold.
#define EXPECT(condition, ...)                                    \
  do {                                                            \
    ++g_checks;                                                   \
    if (!(condition) && ++g_failures <= 20) {                     \
      std::printf("%s:%d: %s: ", __FILE__, __LINE__, #condition); \
      std::printf(__VA_ARGS__);                                   \
      std::printf("\n");                                          \
    }                                                             \
  } while (0)

inline int report_checks() {
  std::printf("%ld checks, %ld failures\n", g_checks, g_failures);
  return g_failures == 0 && g_checks > 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
