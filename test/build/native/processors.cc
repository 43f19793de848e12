// What the control groups of a file system under each given folder allow, one number per folder; then how values of
// SDPO_NUM_THREADS are read, "<count> <problem>".
#include "../../../native/cpu/processors.h"

#include <cstdio>

int main(int argc, char** argv) {
  for (int i = 1; i < argc; ++i) std::printf("%d\n", sdpo::cpu::processors_of_quota(argv[i]));
  for (const char* text : {static_cast<const char*>(nullptr), "", "1", "4096", "0", "4097", "-1", "one", "2 ", "1e3",
                           "99999999999999999999"}) {
    const sdpo::ThreadSetting setting = sdpo::cpu::thread_setting(text, 7);
    std::printf("%d %s\n", setting.count, setting.problem.c_str());
  }
  return 0;
}
