// Threads that share one call: helpers sleep between calls and join a call when asked.
#pragma once

#include <pthread.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <atomic>
#include <functional>

namespace sdpo::cpu {

// An object of the process that is made when it is first used and never destroyed: at exit helpers may still use it. A
// forked child has none of the parent's threads and maybe a locked mutex, so it starts with a new object and leaves the
// old one alone. For static variables, one of each T.
template <class T>
class ForkedAnew {
 public:
  ForkedAnew() {
    pthread_atfork(nullptr, nullptr, [] { current_.store(nullptr, std::memory_order_relaxed); });
  }

  T& get() {
    T* found = current_.load(std::memory_order_acquire);
    if (found != nullptr) return *found;
    T* made = new T;
    if (current_.compare_exchange_strong(found, made, std::memory_order_acq_rel)) return *made;
    delete made;
    return *found;
  }

 private:
  static inline std::atomic<T*> current_{nullptr};
};

// Whether what another participant of a call is about to do comes within 5 to 20 microseconds, the time of a piece of
// work and less than a thread takes to fall asleep and to wake up.
template <class Condition>
bool soon(const Condition& condition) {
  for (int looks = 0; looks < 500; ++looks) {
    if (condition()) return true;
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("isb");
#endif
  }
  return condition();
}

// Runs `work` on the calling thread and on up to `threads - 1` helpers, and returns when all that started have
// returned. `work` must not throw, must hand out its pieces dynamically and be complete when any number of
// participants, even one, has returned: helpers may come late or not at all. Safe to call from several threads at once,
// after fork (the child makes helpers of its own), and at any time before the process ends; helpers are never joined,
// so unloading or exiting cannot wait for them. A helper has the default floating-point environment; the caller has to
// have it.
void run_on_threads(int threads, const std::function<void()>& work);

}  // namespace sdpo::cpu
