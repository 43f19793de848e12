// Signals and the threads of this library: none of them takes one that is meant for the process.
#pragma once

#include <pthread.h>
#include <signal.h>

namespace sdpo {

// For the scope in which a thread is made, which inherits the mask. A process that waits for signals (sigwait,
// signalfd) blocks them in its own threads; one of ours that did not would take them, and the process would end. What a
// thread does itself (a fault, a profiler's clock) is left alone.
class SignalsBlocked {
 public:
  SignalsBlocked() noexcept {
    sigset_t blocked;
    sigfillset(&blocked);
    for (const int signal : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGPROF}) {
      sigdelset(&blocked, signal);
    }
    pthread_sigmask(SIG_BLOCK, &blocked, &saved_);
  }
  ~SignalsBlocked() { pthread_sigmask(SIG_SETMASK, &saved_, nullptr); }
  SignalsBlocked(const SignalsBlocked&) = delete;
  SignalsBlocked& operator=(const SignalsBlocked&) = delete;

 private:
  sigset_t saved_;
};

}  // namespace sdpo
