// Calls of the C interface on a CUDA device, against the same calls on the host and against exact gradients: mixtures
// of dtypes, addresses that are not aligned, gaps, element weights, missing references, gradients over their policy,
// passes one by one, results on the device, bad rows, graphs. It knows sdpo.h and the CUDA runtime, nothing else.
//
//   calls [seed] [count] [dtype]
//
// With a dtype the batches hold nothing else, but for one mixture.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>

#include "call.h"

using namespace sdpo_test;

namespace {

// ---- What a result has to be

// The mean |h| (2 |d| + |h|) of a branch is no more than this (Cauchy and Schwarz); a delta without a reference is a
// difference of means.
double delta_scale(const Call& r, const Batch& b, int branch, int64_t row) {
  const double m = r.out(branch == 0 ? "errorChosen" : "errorRejected", row);
  const double q = r.out(branch == 0 ? "driftChosen" : "driftRejected", row);
  if (!b.reference(branch).present) return m + std::fabs(r.out(branch == 0 ? "deltaChosen" : "deltaRejected", row));
  return 2 * std::sqrt(m * q) + q;
}

// Two sums of the same terms in two orders: a number passes through at most 256 additions of the compute type on the
// host, fewer on a device, and is rounded a few times before. What depends on the sums moves by as much as they do,
// times the slope: psi's scale, and for mapo its T.
void expect_outputs(const Batch& b, const Call& ours, const Call& host, int64_t skip) {
  const double eps = 272 * ulp_of(b.compute());
  for (int64_t row = 0; row < b.rows; ++row) {
    if (row == skip) continue;
    double slope = 1;
    for (int branch = 0; branch < 2; ++branch) slope += kLargestPsi * delta_scale(host, b, branch, row);
    if (b.name_of("objectives", b.options.objective) == "mapo") slope *= b.options.mapo_steps;
    for (int field = 0; const char* name = sdpo_name("rowOutputs", field); ++field) {
      const double x = ours.out(name, row), y = host.out(name, row);
      const auto is = [&](const char* prefix) { return std::strncmp(name, prefix, std::strlen(prefix)) == 0; };
      double bound = 4 * eps * slope * (1 + std::fabs(y));
      if (is("error") || is("drift") || is("elementSum")) bound = eps * std::fabs(y);
      if (is("delta")) bound = eps * delta_scale(host, b, std::strcmp(name, "deltaChosen") != 0, row);
      EXPECT(same(x, y) || std::fabs(x - y) <= bound, "%s: %s of row %d is %.17g, on the host %.17g", b.name.c_str(),
             name, static_cast<int>(row), x, y);
    }
  }
  for (int k = 0; skip < 0 && sdpo_name("metrics", k) != nullptr; ++k) {
    const double x = ours.metrics[static_cast<size_t>(k)], y = host.metrics[static_cast<size_t>(k)];
    const double slope = (1 + 12 * kLargestPsi) * (b.name_of("objectives", b.options.objective) == "mapo" ? 1e3 : 1);
    EXPECT(same(x, y) || std::fabs(x - y) <= 8 * eps * slope * (1 + std::fabs(y)), "%s: %s is %.17g, on the host %.17g",
           b.name.c_str(), sdpo_name("metrics", k), x, y);
  }
}

// e (2/D) (a d + b h) from the A and B of the call itself, rounded a few times and once more to its dtype; and nothing
// beside it was written.
void expect_gradients(const Batch& b, const Call& r, int64_t skip) {
  for (int branch = 0; branch < 2; ++branch) {
    const Tensor& g = b.gradient(branch);
    if (!g.present) continue;
    const std::vector<unsigned char> bytes = r.bytes(branch == 0 ? Batch::gradient_c : Batch::gradient_r);
    std::vector<bool> written(bytes.size());
    for (int64_t row = 0; row < b.rows; ++row) {
      const long double ca = r.out(branch == 0 ? "aChosen" : "aRejected", row),
                        cb = r.out(branch == 0 ? "bChosen" : "bRejected", row);
      const Tensor& weights = b.weights(branch);
      const char* const sum = branch == 0 ? "elementSumChosen" : "elementSumRejected";
      const long double scale = 2 / static_cast<long double>(weights.present ? r.out(sum, row) : b.size);
      for (int64_t i = 0; i < b.size; ++i) {
        const size_t at = g.at(row, i);
        std::fill_n(written.begin() + static_cast<std::ptrdiff_t>(at), bytes_of(g.dtype), true);
        if (row == skip) continue;
        const double e = weights.present ? weights.get(row, i) : 1, u = b.policy(branch).get(row, i);
        const long double d = static_cast<long double>(u) - b.target(branch).get(row, i);
        const long double h = cb != 0 ? static_cast<long double>(u) - b.reference(branch).get(row, i) : 0;
        const long double want = e == 0 ? 0 : e * scale * (ca * d + cb * h);
        const long double size = e * scale * (std::fabs(ca * d) + std::fabs(cb * h));
        const double got = read(bytes.data() + at, g.dtype);
        const bool nan = e != 0 && (std::isnan(ca) || std::isnan(cb));
        // Coefficients of the compute type may be among its smallest numbers, and are multiplied by 8 at most.
        const long double bound = 0.51L * ulp_of(g.dtype) * std::fabs(want) + 6 * ulp_of(b.compute()) * size +
                                  8 * smallest(b.compute()) + smallest(g.dtype);
        EXPECT(nan ? std::isnan(got) : std::fabs(got - want) <= bound, "%s: gradient %d of row %d, element %d is %.9g",
               b.name.c_str(), branch, static_cast<int>(row), static_cast<int>(i), got);
      }
    }
    const std::vector<unsigned char>& before = b.over ? b.policy(branch).bytes : g.bytes;
    bool clean = true;
    for (size_t k = 0; k < bytes.size(); ++k) clean = clean && (written[k] || bytes[k] == before[k]);
    EXPECT(clean, "%s: bytes beside gradient %d were written", b.name.c_str(), branch);
  }
}

// Of a bad row. Nobody looks at results on a device before they are used: there 'throw' says NaN.
void expect_bad_row(const Batch& b, const Call& r, Bad bad, bool apart) {
  const std::string policy = b.name_of("nonFinite", b.options.non_finite);
  EXPECT(r.out("nonFinite", b.bad_row) == 1, "%s: the bad row is not counted", b.name.c_str());
  const bool zero = policy == "skip" && bad == Bad::value;
  for (int branch = 0; branch < 2; ++branch) {
    const Tensor& g = b.gradient(branch);
    if (!g.present) continue;
    const std::vector<unsigned char> bytes = r.bytes(branch == 0 ? Batch::gradient_c : Batch::gradient_r);
    for (int64_t i = 0; i < b.size; ++i) {
      const double got = read(bytes.data() + g.at(b.bad_row, i), g.dtype);
      const bool weightless = b.weights(branch).present && b.weights(branch).get(b.bad_row, i) == 0;
      // A row that fails as a whole is NaN as a whole; a gradient from NaN coefficients takes weights as they are.
      const bool whole = bad == Bad::weights || (policy == "throw" && !apart);
      EXPECT(zero || (weightless && !whole) ? got == 0 : std::isnan(got),
             "%s: gradient %d of the bad row, element %d is %g", b.name.c_str(), branch, static_cast<int>(i), got);
    }
  }
}

// ---- One batch, on the device and on the host

struct How {
  bool on_device;  // row scalars and results
  bool apart;      // pass by pass
  bool own_stream;
};

void check(const Batch& b, const How& how, Bad bad) {
  Stream stream(how.own_stream);
  Call ours(b, how.on_device ? Call::device : Call::host_scalars, stream.handle);
  const sdpo_status status = ours.run(how.apart);
  Call host(b, Call::host);
  const std::string policy = b.name_of("nonFinite", b.options.non_finite);
  const bool fails = bad == Bad::weights || (bad == Bad::value && policy == "throw");
  if (fails && !how.on_device) {
    EXPECT(status == (bad == Bad::weights ? SDPO_ELEMENT_WEIGHTS : SDPO_NON_FINITE), "%s: status %d, %s",
           b.name.c_str(), status, sdpo_last_error());
    EXPECT(host.run(how.apart) == status, "%s: the host says otherwise", b.name.c_str());
    const sdpo_failure &x = ours.failure, &y = host.failure;
    EXPECT(x.row == y.row && (bad == Bad::weights || b.over ||
                              (x.branch == y.branch && x.tensor == y.tensor && x.element == y.element)),
           "%s: row %d, element %d fails, on the host row %d, element %d", b.name.c_str(), static_cast<int>(x.row),
           static_cast<int>(x.element), static_cast<int>(y.row), static_cast<int>(y.element));
    return;
  }
  EXPECT(status == SDPO_OK, "%s: status %d, %s", b.name.c_str(), status, sdpo_last_error());
  if (status != SDPO_OK) return;
  ours.read_back();
  // The rows that are fine are those of the batch with a good row in the place of the bad one.
  Batch good = b;
  if (bad != Bad::none) good.mend();
  Call expected(good, Call::host);
  EXPECT(expected.run(how.apart) == SDPO_OK, "%s: the host says %s", b.name.c_str(), sdpo_last_error());
  const int64_t skip = bad == Bad::none ? -1 : b.bad_row;
  expect_outputs(b, ours, expected, skip);
  expect_gradients(b, ours, skip);
  if (bad != Bad::none) expect_bad_row(b, ours, bad, how.apart);
}

void check_random(Random& random, int number, int dtype) {
  constexpr int64_t kSizes[] = {1, 5, 8, 129, 512, 1000, 1025, 2051, 4100};
  Shape s;
  s.size = kSizes[random.pick(9)];
  s.rows = 1 + random.pick(6);
  s.mixed = dtype < 0 && random.chance(0.4);
  s.plain = random.chance(0.5);
  s.odd = random.chance(0.5);
  s.over = random.chance(0.3);
  s.dtype = dtype >= 0 ? dtype : random.pick(kDTypes);
  const Bad bad = !random.chance(0.3) ? Bad::none : !s.plain && random.chance(0.4) ? Bad::weights : Bad::value;
  How how{random.chance(0.5), random.chance(0.3), random.chance(0.3)};
  // Results on the host that nobody throws for are those of the row, which the other calls check.
  const char* const policy = bad == Bad::none && !how.on_device ? "throw" : kPolicies[random.pick(3)];
  Batch b(random, s, bad, policy,
          "call " + std::to_string(number) + (how.on_device ? " device" : " host") + (how.apart ? " apart" : ""));
  b.host_lists = random.chance(0.3);
  check(b, how, bad);
}

// A batch of one dtype, then a larger one with targets of another: both plain, but the second leaves more sums per
// tile, for which the workspace of the first has no room. On the default stream of a new process.
void check_growth(Random& random) {
  Shape s;
  s.plain = true;
  s.dtype = kFloat32;
  s.size = 4096;
  for (const int64_t rows : {2, 3}) {
    s.rows = rows;
    s.targets = rows == 3 ? kBFloat16 : -1;
    check(Batch(random, s, Bad::none, "throw", "growth"), {false, false, false}, Bad::none);
  }
}

// ---- Beside the loss

void check_elementwise(Random& random) {
  constexpr sdpo_location kDevice = {SDPO_CUDA, 0}, kHost = {SDPO_HOST, 0};
  for (int dtype = 0; dtype < kDTypes; ++dtype) {
    for (const bool odd : {false, true}) {
      const int64_t rows = 1 + random.pick(70), size = 1 + random.pick(300);
      Tensor x, y, z;
      for (Tensor* t : {&x, &y, &z}) t->make(random, dtype, rows, size, odd && t == &x, odd);
      for (Tensor* t : {&x, &y}) t->fill(random, rows, size);
      std::vector<double> a(static_cast<size_t>(rows)), b(a.size());
      for (auto* list : {&a, &b})
        for (double& value : *list) value = random.uniform(-2, 2);
      const Memory dx(x.bytes), dy(y.bytes), dz(z.bytes);
      const sdpo_tensor vx = x.view(dx.data), vy = y.view(dy.data), hx = x.view(x.bytes.data()),
                        hy = y.view(y.bytes.data());
      const sdpo_output vz = z.output(dz.data), hz = z.output(z.bytes.data());
      EXPECT(sdpo_combine(rows, size, a.data(), &vx, b.data(), &vy, &vz, kDevice, nullptr, 0) == SDPO_OK, "combine");
      EXPECT(sdpo_combine(rows, size, a.data(), &hx, b.data(), &hy, &hz, kHost, nullptr, 0) == SDPO_OK, "combine");
      EXPECT(dz.read() == z.bytes, "combine of dtype %d, %d x %d", dtype, static_cast<int>(rows),
             static_cast<int>(size));
    }
  }
  for (const uint64_t offset : {uint64_t{0}, uint64_t{3}, uint64_t{1} << 40}) {
    constexpr int64_t kCount = 1003;
    std::vector<unsigned char> words(4 * kCount), normals(8 * kCount);
    const Memory dwords(words), dnormals(normals);
    const int f64 = sdpo_index("dtypes", "float64");
    const auto bits = [&](void* out, sdpo_location where) {
      return sdpo_random_bits(7, offset, kCount, static_cast<uint32_t*>(out), where, nullptr, 0);
    };
    EXPECT(bits(dwords.data, kDevice) == SDPO_OK && bits(words.data(), kHost) == SDPO_OK, "random bits");
    EXPECT(dwords.read() == words, "random bits from %llu on", static_cast<unsigned long long>(offset));
    EXPECT(sdpo_noise(7, offset, kCount, dnormals.data, f64, kDevice, nullptr, 0) == SDPO_OK, "noise");
    EXPECT(sdpo_noise(7, offset, kCount, normals.data(), f64, kHost, nullptr, 0) == SDPO_OK, "noise");
    const std::vector<unsigned char> got = dnormals.read();
    for (size_t i = 0; i < kCount; ++i) {  // native/core/philox.h derives the bound, for the largest radius
      const double x = read(got.data() + 8 * i, kFloat64), y = read(normals.data() + 8 * i, kFloat64);
      EXPECT(std::fabs(x - y) <= 20 * 0x1p-53 * std::sqrt(66 * std::log(2.0)), "normal %d", static_cast<int>(i));
    }
  }
}

// ---- Graphs

struct Graph {
  cudaGraphExec_t exec = nullptr;
  explicit Graph(cudaStream_t stream) {
    cudaGraph_t graph = nullptr;
    CUDA(cudaStreamEndCapture(stream, &graph));
    CUDA(cudaGraphInstantiateWithFlags(&exec, graph, 0));
    CUDA(cudaGraphDestroy(graph));
  }
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  ~Graph() { CUDA(cudaGraphExecDestroy(exec)); }
};

// A call is recorded once and made again with other numbers in the same memory; each time it has the bits of a call.
void check_graph(Random& random, const Shape& s, bool apart) {
  const Batch first(random, s, Bad::none, "propagate", "graph");
  Stream stream(true);
  Call call(first, Call::device, stream.handle);
  EXPECT(call.reserve() == SDPO_OK, "%s", sdpo_last_error());
  CUDA(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeRelaxed));
  EXPECT(call.run(apart) == SDPO_OK, "%s", sdpo_last_error());
  const Graph graph(stream.handle);
  for (int round = 0; round < 3; ++round) {
    Batch b = first;
    b.renew(random);
    b.keep_constants(first);
    call.write(b);
    CUDA(cudaGraphLaunch(graph.exec, stream.handle));
    call.read_back();
    Call expected(b, Call::device);
    EXPECT(expected.run(apart) == SDPO_OK, "%s", sdpo_last_error());
    expected.read_back();
    EXPECT(call.same_bits(expected), "round %d of a graph of %s", round, b.name.c_str());
    if (round > 0) continue;
    // The stream's workspace grows; the graph keeps the one it was captured with.
    Shape larger = s;
    larger.rows = 9 * s.rows;
    check(Batch(random, larger, Bad::none, "propagate", "after a capture"), {true, apart, false}, Bad::none);
    Call grown(Batch(random, larger, Bad::none, "propagate", "after a capture"), Call::device, stream.handle);
    EXPECT(grown.run(apart) == SDPO_OK, "%s", sdpo_last_error());
    grown.read_back();
  }
}

// What cannot be captured is refused with a reason, and the capture goes on as if it had not been asked for.
void check_refusals(Random& random) {
  Shape s;
  s.plain = true;
  s.dtype = kFloat32;
  s.rows = 2;
  s.size = 1000;
  const Batch b(random, s, Bad::none, "propagate", "refusals");
  Stream stream(true);
  Call reserved(b, Call::device, stream.handle), on_host(b, Call::host_scalars, stream.handle);
  s.rows = 400;
  const Batch large(random, s, Bad::none, "propagate", "refusals");
  Call larger(large, Call::device, stream.handle);
  EXPECT(reserved.reserve() == SDPO_OK, "%s", sdpo_last_error());
  CUDA(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeRelaxed));
  const auto refused = [&](sdpo_status status, const char* reason) {
    EXPECT(status == SDPO_DEVICE && std::strstr(sdpo_last_error(), reason) != nullptr, "status %d, %s", status,
           sdpo_last_error());
  };
  refused(larger.run(false), "growing a workspace during a capture (reserve it before) on cuda:0");
  refused(larger.reserve(), "growing a workspace during a capture (reserve it before) on cuda:0");
  refused(on_host.run(false), "capturing a call whose results the host reads (leave them on the device) on cuda:0");
  EXPECT(reserved.run(false) == SDPO_OK, "%s", sdpo_last_error());
  const Graph graph(stream.handle);
  CUDA(cudaGraphLaunch(graph.exec, stream.handle));
  reserved.read_back();
  Call expected(b, Call::device);
  EXPECT(expected.run(false) == SDPO_OK, "%s", sdpo_last_error());
  expected.read_back();
  EXPECT(reserved.same_bits(expected), "a graph after refusals");
}

// The metrics of no rows, which the host knows: they are kept in a graph too.
void check_empty(Random& random) {
  Shape s;
  s.rows = 0;
  s.size = 10;
  const Batch b(random, s, Bad::none, "propagate", "empty");
  Call host(b, Call::host);
  EXPECT(host.run(false) == SDPO_OK, "%s", sdpo_last_error());
  Stream stream(true);
  Call call(b, Call::device, stream.handle);
  CUDA(cudaStreamBeginCapture(stream.handle, cudaStreamCaptureModeRelaxed));
  EXPECT(call.run(false) == SDPO_OK, "%s", sdpo_last_error());
  const Graph graph(stream.handle);
  for (int round = 0; round < 2; ++round) {
    CUDA(cudaGraphLaunch(graph.exec, stream.handle));
    call.read_back();
    EXPECT(call.same_bits(host), "metrics of no rows");
  }
}

}  // namespace

int main(int argc, char** argv) {
  Random random(argc > 1 ? std::strtoull(argv[1], nullptr, 0) : 1);
  const int count = argc > 2 ? std::atoi(argv[2]) : 150;
  int only = -1;
  for (int dtype = 0; argc > 3 && dtype < kDTypes; ++dtype)
    if (sdpo_index("dtypes", argv[3]) == position(dtype)) only = dtype;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  check_growth(random);
  for (int i = 0; i < count; ++i) check_random(random, i, only);
  Shape s;
  s.plain = true;
  for (const auto& [rows, size, dtype] : {std::tuple(120, 33, kFloat32), std::tuple(2, 16384, kBFloat16),
                                          std::tuple(5, 8195, kFloat64), std::tuple(1, 262149, kFloat16)}) {
    if (only >= 0 && only != dtype) continue;
    s.rows = rows;
    s.size = size;
    s.dtype = dtype;
    check(Batch(random, s, Bad::none, "throw", "large"), {false, false, true}, Bad::none);
  }
  // A bad row whose last tile and last pack are cut.
  s.rows = 3;
  s.size = 1003;
  if (only >= 0) s.dtype = only;
  for (const char* const policy : kPolicies)
    check(Batch(random, s, Bad::value, policy, "bad row"), {true, false, false}, Bad::value);
  check_elementwise(random);
  s.size = 2051;
  for (const bool mixed : {false, true}) {
    if (mixed && only >= 0) continue;
    s.mixed = mixed;
    for (const bool apart : {false, true}) check_graph(random, s, apart);
  }
  check_refusals(random);
  check_empty(random);
  std::printf("%ld calls, %ld checks, %ld failures\n", g_calls, g_checks, g_failures);
  return g_failures == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}
