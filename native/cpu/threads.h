// Threads that share one call: helpers sleep between calls, join a call when asked, and never spin.
#pragma once

#include <functional>

namespace sdpo::cpu {

// Cores this process may run on, or SDPO_NUM_THREADS when that is a positive number.
int default_threads();

// Runs `work` on the calling thread and on up to `threads - 1` helpers, and returns when all that started have
// returned. `work` must hand out its pieces dynamically and be complete when any number of participants, even one, has
// returned: helpers may come late or not at all. Safe to call from several threads at once, after fork (the child makes
// helpers of its own), and at any time before the process ends; helpers are never joined, so unloading or exiting
// cannot wait for them.
void run_on_threads(int threads, const std::function<void()>& work);

}  // namespace sdpo::cpu
