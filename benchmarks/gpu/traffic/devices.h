// The devices that the model of the traffic knows.
//
// Sources. [DS]: NVIDIA's data sheets and architecture papers (multiprocessors, boost clocks, data sheet bandwidth).
// [L2]: what the driver reports as the size of L2. [RRZE]: te42kyfo/gpu-benches, result files of gpu-l2-cache,
// gpu-stream and gpu-latency. [AIK]: markdewing/AI_kernels, latency/README.md: pointer chasing by one thread. [INF]:
// inferred as said beside it, not measured by anybody we know.
#pragma once

#include <cstdint>

#include "../../../native/cuda/policy.h"

namespace sdpo::traffic {

struct Device {
  const char* name;  // also part of what the driver calls it
  int capability;    // its limits are those of policy.h
  int multiprocessors;
  int clusters_per_slot;  // processing clusters (GPC) times the clusters of eight that fit into one with a block on
                          // each multiprocessor
  double clock;           // Hz
  int64_t l2;             // bytes
  double copy;            // bytes per second that a large copy reads and writes
  double l2_bandwidth;    // bytes per second
  double l2_latency;      // cycles of a hit
  double memory_latency;  // cycles of a miss on an idle device
  double double_latency;  // cycles of a dependent float64 operation
};

constexpr Device kDevices[] = {
    // 2039 GB/s by data sheet [DS], 1740 of it in a copy and 5.3 TB/s from L2 [RRZE]; 210 and 550 cycles [AIK].
    {"A100", 80, 108, 0, 1.41e9, int64_t{40} << 20, 1740e9, 5.3e12, 210, 550, 8},
    // 1008 GB/s by data sheet [DS], 0.91 of it in a copy as GDDR6X reaches elsewhere; L2 as an L40 of the same chip
    // [RRZE], scaled by
    // multiprocessors [INF]; 296 and 636 cycles [AIK]. float64 runs at 1/64 of float32 [DS]: 2 lanes per
    // multiprocessor, a warp takes 16 cycles;
    // the latency of one thread is inferred from that [INF].
    {"RTX 4090", 89, 128, 0, 2.52e9, int64_t{72} << 20, 920e9, 4.9e12, 296, 636, 48},
    // 3350 GB/s by data sheet [DS]; copies reach 0.9 of it, as on an H200; L2 as a GH200 of the same chip [RRZE]; 291
    // and 700 cycles [AIK].
    // 8 GPCs of 16 or 18 multiprocessors [DS]: two clusters of eight in each.
    {"H100", 90, 132, 16, 1.98e9, int64_t{50} << 20, 3000e9, 9.8e12, 291, 700, 8},
    // The same chip with 4800 GB/s [DS] and all of its L2 [L2].
    {"H200", 90, 132, 16, 1.98e9, int64_t{60} << 20, 4300e9, 9.8e12, 291, 700, 8},
    // 8000 GB/s [DS], 0.9 of it in a copy [INF]; L2 bandwidth scaled from Hopper by multiprocessors [INF]; 295 and 860
    // cycles [AIK]. 8 GPCs of 18 or
    // 20 multiprocessors, two clusters of eight in each [INF].
    {"B200", 100, 148, 16, 1.965e9, int64_t{126} << 20, 7200e9, 11e12, 295, 860, 8},
};

constexpr const cuda::Architecture& architecture_of(const Device& device) {
  for (const cuda::Architecture& a : cuda::kArchitectures) {
    if (a.capability == device.capability) return a;
  }
  return cuda::kArchitectures[0];
}

}  // namespace sdpo::traffic
