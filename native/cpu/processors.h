// How many processors this process may use: its affinity and the limits of its control groups, or what the environment
// says.
#pragma once

#include <string>

#include "../core/backend.h"

namespace sdpo::cpu {

// Read once per process.
const ThreadSetting& default_threads();

// Processors that the affinity of the calling thread names.
int processors_of_affinity();

// The whole processors that the CPU quotas (version 2: cpu.max; version 1: cpu.cfs_quota_us) of the process's control
// groups and those above them make up, rounded up; 0 where there is no limit. `root` stands in front of /proc and the
// mount points, for tests.
int processors_of_quota(const std::string& root = "");

// SDPO_NUM_THREADS as `text`, nullptr or empty where it is not set.
ThreadSetting thread_setting(const char* text, int processors);

}  // namespace sdpo::cpu
