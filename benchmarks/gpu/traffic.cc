// Plays the calls of the kernels against a model of a device: bytes from device memory, second reads that hit L2, and
// the time that bandwidth and the chain of dependent steps allow. Needs no GPU and no CUDA: c++ -std=c++17 -O2
// -ffp-contract=off -o traffic benchmarks/gpu/traffic.cc
//
//   traffic [--device NAME] [--shape NAME] [--dtype NAME] [--rows N] [--hints honoured|sticky|ignored] [--json]
//   traffic --sweep lead|packs|blocks|fences|switch [--device NAME] ...
//
// What is played: the real ticket order (order.h), tiles, lead, blocks, cluster plans and their choice (policy.h); all
// blocks of the device draw tickets, each waits for its loads, for the steps of traffic/machine.h and for rows that are
// not finished. What is assumed:
//   - L2 is one set-associative cache of 128-byte lines with a hashed index. Reading 44 MB of an L2 of 50 MB in turns
//   then misses as often as measured on
//     an H100 (test/build/cuda-host/traffic.cc). Its two halves keep copies of each other's lines on these devices,
//     which cost no capacity in that measurement.
//   - A line of which a hint says evict_first leaves before one of which it says evict_last, and the last access
//   decides (--hints: other readings).
//   - Memory, L2, the port of a multiprocessor and its issue slots serve requests in order, at the rate of a long copy;
//   latencies are those of an idle
//     device, so that waiting comes from the queues alone. Reads and writes of memory cost the same.
//   - Address translation, instruction fetches and clocks that change under load are left out. What policy.h calls the
//   ring is never waited for.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "traffic/play.h"

namespace {

using namespace sdpo;
using namespace sdpo::traffic;

struct Shape {
  const char* name;
  int64_t size;
};

constexpr Shape kShapes[] = {
    {"sd15", 4 * 64 * 64},
    {"sdxl", 4 * 128 * 128},
    {"cogvideox", int64_t{13} * 16 * 60 * 90},
    {"wan2.1", int64_t{16} * 21 * 60 * 104},
};

constexpr int64_t kRows[] = {1, 4, 16};

struct Options {
  const char *device = nullptr, *shape = nullptr, *dtype = nullptr, *sweep = nullptr;
  int64_t rows = 0;
  Hints hints = Hints::honoured;
  bool json = false;
};

const char* name_of(Design design) {
  return design == Design::tickets ? "tiles" : "clusters";
}  // as the check program calls them

bool chosen(const Device& device, const Call& call, Design design) {
  const cuda::ClusterPlan plan = plan_of(device, call);
  return (design == Design::clusters) ==
         (plan.blocks > 0 && cuda::prefer_clusters(plan, call.rows, clusters_at_once(device, plan)));
}

// The first call finds nothing of its tensors in L2, as after a model's backward pass. The next finds what the first
// left, as when calls are timed.
struct Outcome {
  Traffic cold, repeated;
  double chain;  // seconds of a repeated call for which nothing waits for bandwidth
  int64_t left;  // bytes that wait in L2 to be written after the first call
};

Outcome outcome_of(const Device& device, const Call& call, Design design, Hints hints, const Choice& choice) {
  L2 l2(device.l2, hints);
  Outcome out;
  out.cold = play(device, call, design, l2, choice);
  out.left = l2.dirty() * kLine;
  out.repeated = play(device, call, design, l2, choice);
  out.chain = play(device, call, design, l2, choice, true).seconds;
  return out;
}

double floor_bytes(const Call& call) { return 8.0 * static_cast<double>(call.rows * call.bytes()); }
double share_of_hits(const Traffic& t) {
  return t.second_reads == 0 ? 1 : static_cast<double>(t.second_hits) / static_cast<double>(t.second_reads);
}
double bandwidth_of(const Traffic& t) { return std::max({t.memory, t.l2, t.issue}); }

template <class Each>
void each_case(const Options& o, const Each& each) {
  for (const Device& device : kDevices) {
    if (o.device != nullptr && std::strcmp(o.device, device.name) != 0) continue;
    for (const Shape& shape : kShapes) {
      if (o.shape != nullptr && std::strcmp(o.shape, shape.name) != 0) continue;
      for (const DType dtype : {DType::bfloat16, DType::float32}) {
        if (o.dtype != nullptr && std::strcmp(o.dtype, kDTypeNames[static_cast<int>(dtype)]) != 0) continue;
        for (const int64_t rows : kRows) {
          if (o.rows == 0 || o.rows == rows) each(device, shape, Call{rows, shape.size, dtype});
        }
      }
    }
  }
}

// ---- Predictions

void print_json(const char* key, const Traffic& t) {
  std::printf(
      "\"%s\": {\"microseconds\": %.2f, \"readBytes\": %.0f, \"writtenBytes\": %.0f, \"secondReadHits\": %.4f, \"bandwidthMicroseconds\": %.2f}",
      key, t.seconds * 1e6, t.read, t.written, share_of_hits(t), bandwidth_of(t) * 1e6);
}

void predict(const Options& o) {
  if (o.json) {
    std::printf("{\n  \"kind\": \"predicted\",\n  \"devices\": [\n");
    for (size_t i = 0; i < std::size(kDevices); ++i) {
      const Device& d = kDevices[i];
      std::printf(
          "    {\"name\": \"%s\", \"multiProcessors\": %d, \"l2Bytes\": %lld, \"copyGigabytesPerSecond\": %.0f, \"l2GigabytesPerSecond\": %.0f}%s\n",
          d.name, d.multiprocessors, static_cast<long long>(d.l2), d.copy / 1e9, d.l2_bandwidth / 1e9,
          i + 1 < std::size(kDevices) ? "," : "");
    }
    std::printf("  ],\n  \"instructionsPerPack\": {");
    for (const DType dtype : {DType::bfloat16, DType::float32}) {
      const Instructions n = instructions_of(dtype);
      std::printf("%s\"%s\": {\"moments\": %.0f, \"gradient\": %.0f, \"keep\": %.0f, \"keptGradient\": %.0f}",
                  dtype == DType::bfloat16 ? "" : ", ", kDTypeNames[static_cast<int>(dtype)], n.moments, n.gradient,
                  n.keep, n.kept_gradient);
    }
    std::printf("},\n  \"predictions\": [");
  } else {
    std::printf(
        "device    shape      dtype    rows design     from memory  second reads  first call          again               chain\n"
        "                                              (of the floor) from L2      us, of a copy       us, of a copy       us\n");
  }
  bool first = true;
  each_case(o, [&](const Device& device, const Shape& shape, const Call& call) {
    for (const Design design : {Design::tickets, Design::clusters}) {
      if (design == Design::clusters && plan_of(device, call).blocks == 0) continue;
      const Outcome r = outcome_of(device, call, design, o.hints, {});
      const double floor = floor_bytes(call) / device.copy;
      const char* const dtype = kDTypeNames[static_cast<int>(call.dtype)];
      if (o.json) {
        std::printf(
            "%s\n    {\"device\": \"%s\", \"shape\": \"%s\", \"dtype\": \"%s\", \"rows\": %lld, \"design\": \"%s\", \"chosen\": %s, "
            "\"floorBytes\": %.0f, \"floorMicroseconds\": %.2f, \"chainMicroseconds\": %.2f,\n     ",
            first ? "" : ",", device.name, shape.name, dtype, static_cast<long long>(call.rows), name_of(design),
            chosen(device, call, design) ? "true" : "false", floor_bytes(call), floor * 1e6, r.chain * 1e6);
        print_json("cold", r.cold);
        std::printf(",\n     ");
        print_json("repeated", r.repeated);
        std::printf(", \"leftToWriteBytes\": %lld}", static_cast<long long>(r.left));
      } else {
        std::printf(
            "%-9s %-10s %-8s %4lld %-8s %s %6.3f         %6.3f       %8.2f %5.1f %%    %8.2f %5.1f %%    %8.2f\n",
            device.name, shape.name, dtype, static_cast<long long>(call.rows), name_of(design),
            chosen(device, call, design) ? "*" : " ", r.cold.read / (0.75 * floor_bytes(call)), share_of_hits(r.cold),
            r.cold.seconds * 1e6, 100 * floor / r.cold.seconds, r.repeated.seconds * 1e6,
            100 * floor / r.repeated.seconds, r.chain * 1e6);
      }
      std::fflush(stdout);
      first = false;
    }
  });
  if (o.json) std::printf("\n  ]\n}\n");
}

// ---- Sweeps: the time of a first call and of a repeated one for values of one choice, policy.h's among them

struct Value {
  std::string name;
  Choice choice;
};

std::vector<Value> values_of(const Options& o, const Device& device) {
  std::vector<Value> out{{"policy.h", {}}};
  const int per = cuda::resident_blocks(architecture_of(device), cuda::kThreads,
                                        cuda::register_cap(cuda::Variant::plain), kStaticShared);
  const auto add = [&](std::string name, const Choice& choice) { out.push_back({std::move(name), choice}); };
  if (std::strcmp(o.sweep, "lead") == 0) {
    for (const double turns : {0.0, 0.25, 0.5, 1.0, 2.0, 3.0}) {  // of all blocks
      Choice c;
      c.ahead = static_cast<int64_t>(turns * per * device.multiprocessors);
      add(std::to_string(c.ahead), c);
    }
  } else if (std::strcmp(o.sweep, "packs") == 0) {
    for (const int packs : {1, 2, 4, 8, 16}) {
      Choice c;
      c.packs = packs;
      add(std::to_string(packs), c);
    }
  } else if (std::strcmp(o.sweep, "blocks") == 0) {
    for (const int blocks : {3, 4, 5, 6, 8}) {
      Choice c;
      c.blocks = blocks;
      add(std::to_string(blocks), c);
    }
  } else {
    for (const double fences : {0.0, 1.0, 2.0, 4.0}) {
      Choice c;
      c.fences = fences;
      add(std::to_string(static_cast<int>(fences)), c);
    }
  }
  return out;
}

void sweep(const Options& o) {
  each_case(o, [&](const Device& device, const Shape& shape, const Call& call) {
    std::printf("%-9s %-10s %-8s %4lld:", device.name, shape.name, kDTypeNames[static_cast<int>(call.dtype)],
                static_cast<long long>(call.rows));
    for (const Value& v : values_of(o, device)) {
      L2 l2(device.l2, o.hints);
      const double cold = play(device, call, Design::tickets, l2, v.choice).seconds;
      std::printf("  %s: %.2f %.2f", v.name.c_str(), cold * 1e6,
                  play(device, call, Design::tickets, l2, v.choice).seconds * 1e6);
    }
    std::printf("\n");
    std::fflush(stdout);
  });
}

// From how many rows on tickets are faster than clusters, by first calls and by repeated ones.
void sweep_switch(const Options& o) {
  for (const Device& device : kDevices) {
    if (o.device != nullptr && std::strcmp(o.device, device.name) != 0) continue;
    for (const Shape& shape : kShapes) {
      if (o.shape != nullptr && std::strcmp(o.shape, shape.name) != 0) continue;
      for (const DType dtype : {DType::bfloat16, DType::float32}) {
        const cuda::ClusterPlan plan = plan_of(device, {1, shape.size, dtype});
        if (plan.blocks == 0) continue;
        std::printf("%-5s %-5s %-8s, %lld clusters at once, tickets/clusters:", device.name, shape.name,
                    kDTypeNames[static_cast<int>(dtype)], static_cast<long long>(clusters_at_once(device, plan)));
        for (const int64_t rows : {1, 4, 8, 16, 17, 24, 32, 48, 64, 96, 128, 256}) {
          const Call call{rows, shape.size, dtype};
          const Outcome tickets = outcome_of(device, call, Design::tickets, o.hints, {}),
                        clusters = outcome_of(device, call, Design::clusters, o.hints, {});
          std::printf("  %lld: %.2f %.2f", static_cast<long long>(rows), tickets.cold.seconds / clusters.cold.seconds,
                      tickets.repeated.seconds / clusters.repeated.seconds);
        }
        std::printf("\n");
        std::fflush(stdout);
      }
    }
  }
}

int usage() {
  std::fprintf(
      stderr,
      "usage: traffic [--device NAME] [--shape NAME] [--dtype NAME] [--rows N] [--hints honoured|sticky|ignored] [--json] "
      "[--sweep lead|packs|blocks|fences|switch]\n");
  return 2;
}

template <class T, size_t N>
bool listed(const char* name, const T (&list)[N]) {
  for (const T& entry : list) {
    if (std::strcmp(entry.name, name) == 0) return true;
  }
  return false;
}

}  // namespace

int main(int argc, char** argv) {
  Options o;
  for (int i = 1; i < argc; ++i) {
    const auto is = [&](const char* name) { return std::strcmp(argv[i], name) == 0; };
    if (is("--json")) {
      o.json = true;
      continue;
    }
    if (i + 1 == argc) return usage();
    const char* const value = argv[i + 1];
    if (is("--device")) {
      if (!listed(value, kDevices)) return usage();
      o.device = value;
    } else if (is("--shape")) {
      if (!listed(value, kShapes)) return usage();
      o.shape = value;
    } else if (is("--dtype")) {
      if (std::strcmp(value, "bfloat16") != 0 && std::strcmp(value, "float32") != 0) return usage();
      o.dtype = value;
    } else if (is("--rows")) {
      o.rows = std::atoi(value);
      if (std::count(std::begin(kRows), std::end(kRows), o.rows) == 0) return usage();
    } else if (is("--sweep")) {
      constexpr const char* kSweeps[] = {"lead", "packs", "blocks", "fences", "switch"};
      if (std::none_of(std::begin(kSweeps), std::end(kSweeps),
                       [&](const char* s) { return std::strcmp(s, value) == 0; }))
        return usage();
      o.sweep = value;
    } else if (is("--hints")) {
      if (std::strcmp(value, "sticky") != 0 && std::strcmp(value, "ignored") != 0 &&
          std::strcmp(value, "honoured") != 0)
        return usage();
      o.hints = std::strcmp(value, "sticky") == 0    ? Hints::sticky
                : std::strcmp(value, "ignored") == 0 ? Hints::ignored
                                                     : Hints::honoured;
    } else {
      return usage();
    }
    ++i;
  }
  if (o.sweep == nullptr) {
    predict(o);
  } else if (std::strcmp(o.sweep, "switch") == 0) {
    sweep_switch(o);
  } else {
    sweep(o);
  }
  return 0;
}
