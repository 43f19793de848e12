// Affinity, control groups and SDPO_NUM_THREADS.
#include "processors.h"

#include <sched.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

namespace sdpo::cpu {
namespace {

constexpr int kMostThreads = 4096;

std::vector<std::string> split(const std::string& text, char separator) {
  std::vector<std::string> out;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, separator);) out.push_back(part);
  return out;
}

bool contains(const std::string& list, const char* name) {
  const std::vector<std::string> names = split(list, ',');
  return std::find(names.begin(), names.end(), name) != names.end();
}

// A number of a file; negative where there is none.
double number_in(const std::string& file) {
  std::ifstream stream(file);
  double value = -1;
  return stream >> value ? value : -1;
}

// Processors that the quota of one group makes up; infinite without one.
double quota_of(const std::string& folder, bool unified) {
  double quota = -1, period = -1;
  if (unified) {
    std::ifstream stream(folder + "/cpu.max");  // "max 100000" or "150000 100000"
    std::string first;
    if (stream >> first >> period && first != "max") quota = std::atof(first.c_str());
  } else {
    quota = number_in(folder + "/cpu.cfs_quota_us");  // -1: none
    period = number_in(folder + "/cpu.cfs_period_us");
  }
  return quota > 0 && period > 0 ? quota / period : INFINITY;
}

// The least quota from a group up to the mount point of its hierarchy.
double least_quota(const std::string& mount, std::string group, bool unified) {
  double least = INFINITY;
  for (;;) {
    least = std::min(least, quota_of(mount + group, unified));
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos) return least;
    group.erase(slash);
  }
}

// The path of the process's group in a hierarchy: lines of /proc/self/cgroup are "id:controllers:path", and those of
// the unified hierarchy "0::path".
std::string group_of(const std::string& root, bool unified) {
  std::ifstream stream(root + "/proc/self/cgroup");
  for (std::string line; std::getline(stream, line);) {
    const size_t first = line.find(':'), second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1), path = line.substr(second + 1);
    if (unified ? controllers.empty() : contains(controllers, "cpu")) return path == "/" ? "" : path;
  }
  return "";
}

}  // namespace

int processors_of_quota(const std::string& root) {
  double least = INFINITY;
  // "36 35 98:0 /mount/root /mount/point options [tags ...] - type source super,options"
  std::ifstream mounts(root + "/proc/self/mountinfo");
  for (std::string line; std::getline(mounts, line);) {
    const size_t dash = line.find(" - ");
    if (dash == std::string::npos) continue;
    const std::vector<std::string> front = split(line.substr(0, dash), ' '), back = split(line.substr(dash + 3), ' ');
    if (front.size() < 5 || back.empty()) continue;
    const bool unified = back[0] == "cgroup2";
    if (!unified && !(back[0] == "cgroup" && back.size() >= 3 && contains(back[2], "cpu"))) continue;
    std::string group = group_of(root, unified);
    // In a container the mount may show a group of the host as its own root.
    const std::string& shown = front[3];
    if (shown != "/" && group.compare(0, shown.size(), shown) == 0) group.erase(0, shown.size());
    least = std::min(least, least_quota(root + front[4], group, unified));
  }
  return least < kMostThreads ? std::max(1, static_cast<int>(std::ceil(least))) : 0;
}

int processors_of_affinity() {
  // A set of the usual size is too small for machines of more than 1024 processors.
  for (int most = CPU_SETSIZE; most <= (1 << 20); most *= 2) {
    cpu_set_t* const set = CPU_ALLOC(static_cast<size_t>(most));
    if (set == nullptr) break;
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(most));
    const bool known = sched_getaffinity(0, bytes, set) == 0;
    const int count = known ? CPU_COUNT_S(bytes, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
  }
  return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

ThreadSetting thread_setting(const char* text, int processors) {
  if (text == nullptr || *text == '\0') return {processors, ""};
  const long value = std::strtol(text, nullptr, 10);
  const bool digits = std::strspn(text, "0123456789") == std::strlen(text);
  if (digits && value > 0 && value <= kMostThreads) return {static_cast<int>(value), ""};
  return {processors, "Expected the environment variable SDPO_NUM_THREADS to be an integer from 1 to " +
                          std::to_string(kMostThreads) + ", or not to be set, received \"" +
                          std::string(text).substr(0, 60) + "\""};
}

const ThreadSetting& default_threads() {
  static const auto* const setting = [] {
    const int affinity = processors_of_affinity(), quota = processors_of_quota();
    const int processors = quota > 0 ? std::min(quota, affinity) : affinity;
    return new ThreadSetting(thread_setting(std::getenv("SDPO_NUM_THREADS"), std::min(processors, kMostThreads)));
  }();
  return *setting;
}

}  // namespace sdpo::cpu
