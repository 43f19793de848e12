// The floating-point environment of native code: what results mean must not depend on what a caller, or the creator of
// a thread, has set.
#pragma once

#include <cfenv>
#include <cstdint>

namespace sdpo {

// From here to the end of the scope: rounding to nearest, subnormal numbers as they are (neither flushed to zero nor
// read as zero), no exception trapped. Then the environment is what it was, flags included, so that a caller sees
// nothing of the arithmetic in between. Every participant of a call has one: its entry, and each helper thread, since a
// thread starts with the environment of its creator.
class FloatEnvironment {
 public:
#if defined(__x86_64__)
  // The x87 unit has a state of its own, which arithmetic of float and double does not look at.
  FloatEnvironment() noexcept {
    constexpr uint32_t kDefault = 0x1f80;
    __asm__ volatile("stmxcsr %0" : "=m"(saved_) : : "memory");
    __asm__ volatile("ldmxcsr %0" : : "m"(kDefault) : "memory");
  }
  ~FloatEnvironment() { __asm__ volatile("ldmxcsr %0" : : "m"(saved_) : "memory"); }

 private:
  uint32_t saved_;
#elif defined(__aarch64__)
  FloatEnvironment() noexcept {
    __asm__ volatile("mrs %0, fpcr" : "=r"(control_) : : "memory");
    __asm__ volatile("mrs %0, fpsr" : "=r"(flags_) : : "memory");
    __asm__ volatile("msr fpcr, %0" : : "r"(uint64_t{0}) : "memory");
  }
  ~FloatEnvironment() {
    __asm__ volatile("msr fpsr, %0" : : "r"(flags_) : "memory");
    __asm__ volatile("msr fpcr, %0" : : "r"(control_) : "memory");
  }

 private:
  uint64_t control_, flags_;
#else
  FloatEnvironment() noexcept {
    std::feholdexcept(&saved_);
    std::fesetenv(FE_DFL_ENV);
  }
  ~FloatEnvironment() { std::fesetenv(&saved_); }

 private:
  std::fenv_t saved_;
#endif

 public:
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;
};

}  // namespace sdpo
