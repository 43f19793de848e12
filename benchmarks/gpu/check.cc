// Checks the CUDA backend on a device against its host emulation and the CPU backend, then times it.
// Prints one JSON object.
//
//   check [--device N] [--quick|--small] [--no-timing] [--only-timing] [--shape NAME]
//         [--rows N] [--commit HASH]
//
// Exit code 0: everything agreed. --quick checks less, for sanitizers, and
// --small least, where a processor runs the kernels. --shape and --rows choose among the timings.
#include <algorithm>
#include <cstring>

#include "graphs.h"

namespace {

using namespace sdpo;
using checks::DeviceMemory;
using checks::must;

struct Timing {
  double median, low, high;  // microseconds of a call; the middle half of the samples lies between low and high
};

// Work that keeps a stream busy while the calls to be timed are put behind it: otherwise short ones would wait for the
// processor, and that would be timed. `bytes` are filled with zeros a few times.
struct Ballast {
  void* memory;
  size_t bytes;
};

// Samples of `each` calls between two events, after some calls to warm up.
template <class Call>
Timing time_calls(int device, void* stream, const Ballast& ballast, int samples, int each, const Call& call) {
  std::vector<void*> events(static_cast<size_t>(samples) + 1);
  for (void*& event : events) must(cuda::create_event(device, &event), "create_event");
  for (int i = 0; i < 5; ++i) call();
  std::vector<double> times;
  // A few samples at a time: a stream takes about a thousand pieces of work before it makes the caller wait.
  constexpr int kPieces = 512;
  const int batch = std::max(1, std::min(samples, kPieces / (each + 1)));
  for (int done = 0; done < samples; done += batch) {
    const int count = std::min(batch, samples - done);
    for (int i = 0; i < 8; ++i) must(cuda::fill_zero(device, ballast.memory, ballast.bytes, stream), "fill_zero");
    must(cuda::record_event(device, events[0], stream), "record_event");
    for (int i = 0; i < count; ++i) {
      for (int k = 0; k < each; ++k) call();
      must(cuda::record_event(device, events[static_cast<size_t>(i) + 1], stream), "record_event");
    }
    must(cuda::synchronize(device, stream), "synchronize");
    for (int i = 0; i < count; ++i) {
      float milliseconds = 0;
      must(cuda::elapsed(device, events[static_cast<size_t>(i)], events[static_cast<size_t>(i) + 1], &milliseconds),
           "elapsed");
      times.push_back(1e3 * milliseconds / each);
    }
  }
  for (void* event : events) must(cuda::destroy_event(device, event), "destroy_event");
  std::sort(times.begin(), times.end());
  return {times[times.size() / 2], times[times.size() / 4], times[times.size() * 3 / 4]};
}

// Bytes read plus bytes written per second, by the device's own copy of a gigabyte.
double copy_bandwidth(int device, void* stream, const Ballast& ballast) {
  const size_t bytes = size_t{1} << 30;
  const DeviceMemory from(device, bytes), to(device, bytes);
  must(cuda::fill_zero(device, from.data(), bytes, stream), "fill_zero");
  const Timing t = time_calls(device, stream, ballast, 20, 1,
                              [&] { must(cuda::copy(device, to.data(), from.data(), bytes, stream), "copy"); });
  return 2 * static_cast<double>(bytes) / (t.median * 1e-6);
}

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

void time_shape(const Shape& shape, DType dtype, int64_t rows, int device, void* stream, const Ballast& ballast,
                double bandwidth, bool* first) {
  const size_t bytes = static_cast<size_t>(rows * shape.size) * dtype_size(dtype);
  std::vector<DeviceMemory> tensors;
  for (int i = 0; i < 8; ++i) {
    tensors.emplace_back(device, bytes);
    NoiseProblem n;  // normals, so that nothing compresses and nothing overflows
    n.seed = static_cast<uint64_t>(i);
    n.count = rows * shape.size;
    n.out = tensors.back().data();
    n.dtype = dtype;
    n.location = {Location::cuda, device};
    n.stream = stream;
    must(cuda::noise(n), "noise");
  }
  const size_t count = static_cast<size_t>(rows);
  DeviceMemory row_outputs(device, RowOutput::count * count * sizeof(double));
  DeviceMemory metrics(device, Metric::count * sizeof(double));
  Problem p;
  p.rows = rows;
  p.size = shape.size;
  const auto branch = [&](Branch& b, size_t at) {
    b.policy = {tensors[at].data(), shape.size, dtype};
    b.reference = {tensors[at + 1].data(), shape.size, dtype};
    b.target = {tensors[at + 2].data(), shape.size, dtype};
    b.gradient = {tensors[at + 3].data(), shape.size, dtype};
  };
  branch(p.chosen, 0);
  branch(p.rejected, 4);
  p.tensors = p.scalars = {Location::cuda, device};
  p.options.objective = Objective::sdpo;
  p.options.beta = 500;
  p.columns.fields[RowInput::omegaChosen].value = p.columns.fields[RowInput::omegaRejected].value = 0.01;
  p.columns.fields[RowInput::maskThreshold].value = 0;
  p.row_outputs = static_cast<double*>(row_outputs.data());
  p.metrics = static_cast<double*>(metrics.data());
  p.denominator = static_cast<double>(rows);
  p.options.non_finite = NonFinite::propagate;
  p.stream = stream;
  Failure failure;
  const double floor_bytes = 8.0 * static_cast<double>(bytes);  // four tensors of two branches
  const int64_t before = cuda::device_info(device, true).freeMemory;
  must(cuda::evaluate(p, &failure), "evaluate");
  must(cuda::synchronize(device, stream), "synchronize");
  const int64_t extra = before - cuda::device_info(device, true).freeMemory;
  const auto call = [&] { must(cuda::evaluate(p, &failure), "evaluate"); };
  // The time between events that enclose a single call, and the time of one call among many: the first has what
  // events cost in it.
  const Timing single = time_calls(device, stream, ballast, 50, 1, call);
  const Timing t = single.median < 100 ? time_calls(device, stream, ballast, 50, 16, call) : single;
  std::printf(
      "%s    {\"shape\": \"%s\", \"dtype\": \"%s\", \"rows\": %lld, \"microseconds\": %.3f, "
      "\"quartiles\": [%.3f, %.3f], \"singleCall\": %.3f, \"floorBytes\": %.0f, \"gigabytesPerSecond\": %.1f, \"shareOfCopy\": %.4f, "
      "\"extraBytes\": %lld}",
      *first ? "" : ",\n", shape.name, kDTypeNames[static_cast<int>(dtype)], static_cast<long long>(rows), t.median,
      t.low, t.high, single.median, floor_bytes, floor_bytes / (t.median * 1e3),
      floor_bytes / (t.median * 1e-6) / bandwidth, static_cast<long long>(extra));
  std::fflush(stdout);
  *first = false;
}

}  // namespace

int usage() {
  std::fprintf(stderr,
               "usage: check [--device N] [--quick|--small] [--no-timing] [--only-timing] [--shape NAME] "
               "[--rows N] [--commit HASH]\n");
  return 2;
}

int main(int argc, char** argv) {
  int device = 0;
  bool timing = true, checking = true;
  checks::Extent extent = checks::Extent::all;
  const char *commit = "unknown", *only_shape = nullptr;
  int only_rows = 0;
  for (int i = 1; i < argc; ++i) {
    const auto is = [&](const char* name, bool value) {
      return std::strcmp(argv[i], name) == 0 && (!value || i + 1 < argc);
    };
    if (is("--device", true)) {
      device = std::atoi(argv[++i]);
    } else if (is("--quick", false)) {
      extent = checks::Extent::quick;
    } else if (is("--small", false)) {
      extent = checks::Extent::small;
    } else if (is("--no-timing", false)) {
      timing = false;
    } else if (is("--only-timing", false)) {
      checking = false;
    } else if (is("--shape", true)) {
      only_shape = argv[++i];
    } else if (is("--rows", true)) {
      only_rows = std::atoi(argv[++i]);
    } else if (is("--commit", true)) {
      commit = argv[++i];
    } else {
      return usage();
    }
  }
  std::setvbuf(stdout, nullptr, _IOLBF,
               0);  // a kernel that hangs ends the program from outside: what was found by then is told
  std::string why;
  if (cuda::device_count(&why) <= device) {
    std::fprintf(stderr, "no device cuda:%d: %s\n", device, why.c_str());
    return 2;
  }
  const DeviceInfo info = cuda::device_info(device);
  if (checking) {
    checks::check_everything(device, extent);
    checks::check_graphs(device);
  }
  std::printf(
      "{\n  \"gpu\": \"%s\", \"computeCapability\": \"%d.%d\", \"multiProcessors\": %d, \"driver\": %d, \"runtime\": %d,\n"
      "  \"commit\": \"%s\", \"checks\": %ld, \"failures\": %ld",
      info.name.c_str(), info.computeMajor, info.computeMinor, info.multiProcessors, cuda::driver_version(),
      cuda::runtime_version(), commit, g_checks, g_failures);
  if (g_failures == 0 && timing) {  // what is wrong is not timed
    void* stream = nullptr;
    must(cuda::create_stream(device, &stream), "create_stream");
    const DeviceMemory memory(device, size_t{1} << 30);
    const Ballast ballast{memory.data(), memory.bytes()};
    const double bandwidth = copy_bandwidth(device, stream, ballast);
    std::printf(",\n  \"copyGigabytesPerSecond\": %.1f,\n  \"timings\": [\n", bandwidth / 1e9);
    bool first = true;
    for (const Shape& shape : kShapes) {
      if (only_shape != nullptr && std::strcmp(only_shape, shape.name) != 0) continue;
      for (const DType dtype : {DType::bfloat16, DType::float32}) {
        for (const int64_t rows : {1, 4, 16, 64}) {
          if (only_rows == 0 || only_rows == rows)
            time_shape(shape, dtype, rows, device, stream, ballast, bandwidth, &first);
        }
      }
    }
    std::printf("\n  ]");
    must(cuda::destroy_stream(device, stream), "destroy_stream");
  }
  std::printf("\n}\n");
  return g_failures == 0 && (g_checks > 0 || !checking) ? EXIT_SUCCESS : EXIT_FAILURE;
}
