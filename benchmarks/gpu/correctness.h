// The checks of the CUDA backend on a real device, against the kernels' host emulation and the CPU backend.
#pragma once

#include <atomic>
#include <chrono>
#include <cmath>
#include <limits>
#include <thread>

#include "../../native/core/philox.h"
#include "../../native/cpu/cpu.h"
#include "../../test/build/cuda-host/emulator.h"
#include "device_case.h"

namespace sdpo::checks {

inline bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

struct HostResult {
  std::vector<std::vector<unsigned char>> tensors;
  std::vector<double> outputs, metrics;
  Problem problem;

  HostResult(const Case& c, const std::vector<double>& row_outputs) : outputs(row_outputs), metrics(c.metrics) {
    std::vector<void*> bases;
    for (const Tensor& t : c.tensors) tensors.push_back(t.bytes);
    for (auto& bytes : tensors) bases.push_back(bytes.data());
    problem = c.at(bases.data(), c.numbers.data(), outputs.data(), metrics.data());
  }
};

template <class E>
inline unsigned long long emulate_as(const Problem& p, bool plain) {
  return plain ? cuda::Emulator<E, true>::run(p, 3) : cuda::Emulator<E, false>::run(p, 3);
}

inline bool is_wide(const Case& c) {
  for (int slot = 0; slot < Case::slots; ++slot) {
    if (slot == Case::gradient_c || slot == Case::gradient_r || !c.tensors[slot].present) continue;
    if (c.tensors[slot].dtype == DType::float64) return true;
  }
  return false;
}

// Whether the device takes the mixed kernel for it: as dtypes_of in design.cu, seen from the outside.
inline bool is_mixed(const Case& c) {
  const DType type = c.tensors[Case::policy_c].dtype;
  for (int slot = 0; slot < Case::weights; ++slot) {
    if (c.tensors[slot].present && c.tensors[slot].dtype != type) return true;
  }
  for (const int slot : {Case::weights, Case::weights_r}) {
    const Tensor& e = c.tensors[slot];
    if (e.present && e.dtype == DType::float64 && type != DType::float64) return true;
  }
  return false;
}

inline unsigned long long emulate(const Case& c, const Problem& p) {
  const bool plain = !c.tensors[Case::weights].present && c.tensors[Case::reference_c].present &&
                     c.tensors[Case::reference_r].present && !(c.problem.passes & Pass::cross);
  if (is_mixed(c)) {
    return is_wide(c) ? cuda::Emulator<cuda::Mixed<double>, false>::run(p, 3)
                      : cuda::Emulator<cuda::Mixed<float>, false>::run(p, 3);
  }
  switch (c.tensors[Case::policy_c].dtype) {
    case DType::float64:
      return emulate_as<cuda::Uniform<double>>(p, plain);
    case DType::float32:
      return emulate_as<cuda::Uniform<float>>(p, plain);
    case DType::float16:
      return emulate_as<cuda::Uniform<Float16>>(p, plain);
    case DType::bfloat16:
      break;
  }
  return emulate_as<cuda::Uniform<BFloat16>>(p, plain);
}

inline bool same_tensor(const Tensor& t, const std::vector<unsigned char>& a, const std::vector<unsigned char>& b) {
  const int64_t n = static_cast<int64_t>((a.size() - t.offset) / dtype_size(t.dtype));
  for (int64_t i = 0; i < n; ++i) {
    if (!same(element(t, a.data(), i), element(t, b.data(), i))) return false;
  }
  return true;
}

// The kernels add and multiply as the emulation does, so moments and, from the device's own A and B, gradients have its
// bits. The objective uses the device's exp and log, which are within 2 ulp (CUDA programming guide); the loss
// multiplies that a few times, and mapo a difference of numbers near 1 by its T.
inline void check_case(const Case& c, int device) {
  const double steps = c.problem.options.objective == Objective::mapo ? c.problem.options.mapo_steps : 1;
  const double close = 256 * steps * std::numeric_limits<double>::epsilon();
  DeviceCase d(c, device);
  Failure failure;
  const Status status = cuda::evaluate(d.problem(), &failure);
  EXPECT(status == Status::ok, "%s: %s", c.name.c_str(),
         status == Status::device ? cuda::last_error().message().c_str() : "not ok");
  if (status != Status::ok) return;
  HostResult host(c, c.row_outputs);
  EXPECT(emulate(c, host.problem) == 0, "%s", c.name.c_str());
  for (int field = 0; field < RowOutput::count; ++field) {
    const bool sum = (field >= RowOutput::errorChosen && field <= RowOutput::deltaRejected) ||
                     field == RowOutput::cross || field == RowOutput::elementSumChosen ||
                     field == RowOutput::elementSumRejected;
    for (int64_t row = 0; row < c.problem.rows; ++row) {
      const size_t i = static_cast<size_t>(field * c.problem.rows + row);
      const double a = d.outputs[i], b = host.outputs[i];
      EXPECT(same(a, b) || (!sum && std::fabs(a - b) <= close * std::fmax(1, std::fabs(b))),
             "%s: %s of row %d: %.17g and %.17g", c.name.c_str(), kRowOutputNames[field], static_cast<int>(row), a, b);
    }
  }
  for (int k = 0; k < Metric::count; ++k) {
    EXPECT(same(d.metrics[static_cast<size_t>(k)], host.metrics[static_cast<size_t>(k)]) ||
               std::fabs(d.metrics[static_cast<size_t>(k)] - host.metrics[static_cast<size_t>(k)]) <=
                   close * std::fmax(1, std::fabs(host.metrics[static_cast<size_t>(k)])),
           "%s: %s", c.name.c_str(), kMetricNames[k]);
  }
  HostResult gradients(c, d.outputs);
  gradients.problem.passes = Pass::gradients;
  EXPECT(emulate(c, gradients.problem) == 0, "%s", c.name.c_str());
  for (const int slot : {Case::gradient_c, Case::gradient_r}) {
    if (!c.tensors[slot].present) continue;
    EXPECT(same_tensor(c.tensors[slot], d.bytes(slot), gradients.tensors[static_cast<size_t>(slot)]), "%s: gradient %d",
           c.name.c_str(), slot);
  }

  // Again, and pass by pass: the same bits.
  DeviceCase again(c, device), parts(c, device);
  EXPECT(cuda::evaluate(again.problem(), &failure) == Status::ok, "%s", c.name.c_str());
  for (const int pass : {Pass::moments | (c.problem.passes & Pass::cross), static_cast<int>(Pass::objective),
                         static_cast<int>(Pass::gradients)}) {
    Problem p = parts.problem();
    p.passes = pass;
    EXPECT(cuda::evaluate(p, &failure) == Status::ok, "%s: pass %d", c.name.c_str(), pass);
  }
  for (const DeviceCase* other : {&again, &parts}) {
    for (size_t i = 0; i < d.outputs.size(); ++i)
      EXPECT(same(other->outputs[i], d.outputs[i]), "%s: not the same twice", c.name.c_str());
    for (const int slot : {Case::gradient_c, Case::gradient_r})
      EXPECT(other->bytes(slot) == d.bytes(slot), "%s: not the same twice", c.name.c_str());
  }
}

// Results in device memory, and lists there or on the host: nothing waits, and the same bits come out.
inline void check_device_scalars(const Case& c, int device) {
  DeviceCase host(c, device);
  Failure failure;
  must(cuda::evaluate(host.problem(), &failure), "evaluate");
  for (const bool lists_on_host : {false, true}) {
    ScalarsThere call(c, device, nullptr, lists_on_host);
    EXPECT(cuda::evaluate(call.problem(), &failure) == Status::ok, "%s: scalars on the device", c.name.c_str());
    const DeviceCase& there = call.read();
    for (size_t i = 0; i < host.outputs.size(); ++i)
      EXPECT(same(host.outputs[i], there.outputs[i]), "%s: scalars on the device", c.name.c_str());
    for (size_t i = 0; i < host.metrics.size(); ++i)
      EXPECT(same(host.metrics[i], there.metrics[i]), "%s: scalars on the device", c.name.c_str());
    for (const int slot : {Case::gradient_c, Case::gradient_r})
      EXPECT(host.bytes(slot) == there.bytes(slot), "%s: gradient", c.name.c_str());
  }
}

// Omega by timesteps, of either dtype and wherever they lie, from a table; a timestep that is none, and a number that
// its column refuses, make a row that is not finite.
inline void check_numbers(Maker& make, int device) {
  constexpr double kTable[] = {0.1, 0.05, INFINITY, 0};
  constexpr int64_t kRows = 7;
  const DeviceMemory table(device, sizeof kTable), singles(device, kRows * sizeof(float));
  table.write(kTable);
  Case c = make.make(DType::float32, false, kRows, 1001, false);
  c.problem.options = ObjectiveOptions();
  c.problem.options.objective = Objective::sdpo;
  c.problem.options.non_finite = NonFinite::propagate;
  for (bool& listed : c.listed) listed = false;
  for (const bool bad : {false, true}) {
    Case expected = c;
    float steps[kRows];
    for (int64_t row = 0; row < kRows; ++row) {
      const double step = bad && row == 3 ? 1.5 : bad && row == 5 ? 4 : static_cast<double>(row % 4);
      for (const int field : {RowInput::timestepChosen, RowInput::timestepRejected}) c.number(field, row) = step;
      for (const int field : {RowInput::omegaChosen, RowInput::omegaRejected})
        expected.number(field, row) = step != std::floor(step) || step > 3 ? NAN : kTable[static_cast<int>(step)];
      steps[row] = static_cast<float>(step);
    }
    singles.write(steps);
    for (const int field : {RowInput::omegaChosen, RowInput::omegaRejected}) {
      expected.listed[field] = true;
      for (int64_t row = 0; row < kRows; ++row) c.number(field, row) = NAN;  // not given
    }
    for (const int field : {RowInput::timestepChosen, RowInput::timestepRejected}) c.listed[field] = true;
    c.listed[RowInput::rowWeight] = expected.listed[RowInput::rowWeight] = true;
    if (bad) c.number(RowInput::rowWeight, 1) = expected.number(RowInput::rowWeight, 1) = -1;
    DeviceCase listed(expected, device);
    Failure failure;
    must(cuda::evaluate(listed.problem(), &failure), "evaluate");
    for (const bool lists_on_host : {false, true}) {
      for (const bool single : {false, true}) {
        ScalarsThere call(c, device, nullptr, lists_on_host);
        call.problem().columns.omega_table = static_cast<const double*>(table.data());
        call.problem().columns.omega_count = 4;
        for (const int field : {RowInput::timestepChosen, RowInput::timestepRejected}) {
          RowColumn& column = call.problem().columns.fields[field];
          if (single) column = {lists_on_host ? steps : singles.data(), 0, DType::float32, lists_on_host};
        }
        must(cuda::evaluate(call.problem(), &failure), "evaluate");
        const DeviceCase& there = call.read();
        for (size_t i = 0; i < listed.outputs.size(); ++i)
          EXPECT(same(listed.outputs[i], there.outputs[i]), "omega from a table: %.17g and %.17g", listed.outputs[i],
                 there.outputs[i]);
        EXPECT(there.metrics[Metric::nonFiniteRows] == (bad ? 3 : 0), "%g rows", there.metrics[Metric::nonFiniteRows]);
      }
    }
  }
}

// Many calls in flight on several streams, each settled once, each with the bits of the blocking call.
inline void check_streams(Maker& make, int device, int64_t size) {
  constexpr int kStreams = 3, kCalls = 24;
  const Case c = make.make(DType::bfloat16, false, 4, size, false);
  DeviceCase expected(c, device);
  Failure failure;
  must(cuda::evaluate(expected.problem(), &failure), "evaluate");
  void* streams[kStreams];
  for (void*& stream : streams) must(cuda::create_stream(device, &stream), "create_stream");
  std::vector<DeviceCase> calls;
  calls.reserve(kCalls);
  std::atomic<int> settled{0}, good{0};
  for (int i = 0; i < kCalls; ++i) {
    calls.emplace_back(c, device);
    Problem p = calls.back().problem();
    p.stream = streams[i % kStreams];
    must(cuda::evaluate_async(p,
                              [&](Status status, const Failure&, const DeviceError*) {
                                good += status == Status::ok;
                                ++settled;
                              }),
         "evaluate_async");
  }
  for (int i = 0; i < 20000 && settled < kCalls; ++i) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  EXPECT(settled == kCalls && good == kCalls, "%d of %d settled, %d good", settled.load(), kCalls, good.load());
  if (settled < kCalls) std::exit(EXIT_FAILURE);  // callbacks would write into what is about to go
  for (const DeviceCase& call : calls) {
    for (size_t i = 0; i < call.outputs.size(); ++i)
      EXPECT(same(call.outputs[i], expected.outputs[i]), "a call on a stream");
    for (const int slot : {Case::gradient_c, Case::gradient_r})
      EXPECT(call.bytes(slot) == expected.bytes(slot), "a call on a stream");
  }
  for (void* stream : streams) must(cuda::destroy_stream(device, stream), "destroy_stream");
}

// A bad value is named as the CPU names it.
inline void check_failures(Maker& make, int device) {
  for (const int slot : {Case::policy_c, Case::reference_r, Case::target_r}) {
    Case c = make.make(DType::float16, false, 6, 4099, false);
    c.problem.options.non_finite = NonFinite::fail;
    for (auto& x : c.numbers) x = std::isinf(x) ? 1 : x;
    set_element(c.tensors[slot], 4 * c.tensors[slot].row_stride + 1234, NAN);
    set_element(c.tensors[slot], 5 * c.tensors[slot].row_stride, INFINITY);
    DeviceCase d(c, device);
    HostResult host(c, c.row_outputs);
    Failure ours, theirs;
    EXPECT(cuda::evaluate(d.problem(), &ours) == Status::non_finite, "a NaN passes");
    EXPECT(cpu::evaluate(host.problem, &theirs) == Status::non_finite, "a NaN passes on the CPU");
    EXPECT(ours.row == theirs.row && ours.branch == theirs.branch && ours.tensor == theirs.tensor &&
               ours.element == theirs.element,
           "row %d, branch %d, element %d", static_cast<int>(ours.row), ours.branch, static_cast<int>(ours.element));
  }
  // Memory that does not exist: an error with its operation and size, and the device works on.
  void* huge = nullptr;
  EXPECT(cuda::allocate(device, size_t{1} << 50, &huge) == Status::out_of_memory && huge == nullptr, "a petabyte");
  EXPECT(!cuda::last_error().context_lost && !cuda::last_error().operation.empty(), "%s",
         cuda::last_error().message().c_str());
  check_case(make.make(DType::float32, false, 2, 1000, false), device);
}

// The radius of a normal, which errors of its angle are multiplied by.
inline double radius_of(const NoiseProblem& n, int64_t i) {
  const uint64_t at = n.offset + static_cast<uint64_t>(i);
  const uint32_t word = philox4x32_10(at >> 2, n.seed).v[at & 2];
  return std::sqrt(-2 * std::log((word + 0.5) * 0x1p-32));
}

inline void check_elementwise(Maker& make, int device) {
  for (int type = 0; type < kDTypeCount; ++type) {
    for (const uint64_t offset : {uint64_t{0}, uint64_t{3}, uint64_t{1} << 40}) {
      for (const bool words : {true, false}) {
        NoiseProblem n;
        n.seed = 0x123456789abcdefull;
        n.offset = offset;
        n.count = 10007;
        n.dtype = static_cast<DType>(type);
        n.words = words;
        const size_t bytes = static_cast<size_t>(n.count) * (words ? 4 : dtype_size(n.dtype));
        std::vector<unsigned char> host(bytes), ours(bytes);
        DeviceMemory memory(device, bytes);
        n.out = host.data();
        must(cpu::noise(n), "noise on the CPU");
        n.out = memory.data();
        n.location = {Location::cuda, device};
        must(cuda::noise(n), "noise");
        memory.read(ours.data());
        if (words) {
          EXPECT(ours == host, "words");
          continue;
        }
        // Rounding to a narrower dtype adds one unit in the last place, which for float16 has a smallest.
        constexpr double kUnits[] = {0, 0x1p-23, 0x1p-10, 0x1p-7}, kSmallest[] = {0, 0, 0x1p-24, 0};  // by dtype
        Tensor t;
        t.dtype = n.dtype;
        for (int64_t i = 0; i < n.count; ++i) {
          const double a = element(t, ours.data(), i), b = element(t, host.data(), i);
          const double unit = std::fmax(kUnits[type] * std::fmax(std::fabs(a), std::fabs(b)), kSmallest[type]);
          EXPECT(std::fabs(a - b) <= kNormalError * radius_of(n, i) + unit, "normal %d: %.17g and %.17g",
                 static_cast<int>(i), a, b);
        }
      }
    }
    const Case c =
        make.make(static_cast<DType>(type), false, 70, 1003, false);  // more rows than coefficients go into one launch
    CombineProblem p;
    p.rows = 70;
    p.size = 1003;
    std::vector<double> a(70), b(70);
    for (int i = 0; i < 70; ++i) {
      a[static_cast<size_t>(i)] = make.uniform(-2, 2);
      b[static_cast<size_t>(i)] = make.uniform(-2, 2);
    }
    p.a = a.data();
    p.b = b.data();
    const std::vector<unsigned char>& x = c.tensors[Case::policy_c].bytes;
    const std::vector<unsigned char>& y = c.tensors[Case::policy_r].bytes;
    std::vector<unsigned char> out(70 * 1003 * dtype_size(static_cast<DType>(type)));
    DeviceMemory dx(device, x.size()), dy(device, y.size()), dout(device, out.size());
    dx.write(x.data());
    dy.write(y.data());
    p.x = c.tensors[Case::policy_c].view(x.data());
    p.y = c.tensors[Case::policy_r].view(y.data());
    p.out = {out.data(), 1003, static_cast<DType>(type)};
    must(cpu::combine(p), "combine on the CPU");
    p.x = c.tensors[Case::policy_c].view(dx.data());
    p.y = c.tensors[Case::policy_r].view(dy.data());
    p.out.data = dout.data();
    p.location = {Location::cuda, device};
    must(cuda::combine(p), "combine");
    std::vector<unsigned char> ours(out.size());
    dout.read(ours.data());
    EXPECT(ours == out, "combine in %s", kDTypeNames[type]);
  }
}

// With results on the device a bad row is told by its outputs, and its gradient is NaN where the call would have
// failed.
inline void check_bad_rows(Maker& make, int device) {
  Case c = make.make(DType::float32, false, 3, 5000, false);
  for (auto& x : c.numbers) x = std::isinf(x) ? 1 : x;
  c.problem.options.kl_weight = 0;
  c.problem.options.non_finite = NonFinite::fail;
  set_element(c.tensors[Case::policy_c], c.tensors[Case::policy_c].row_stride + 77, NAN);
  ScalarsThere call(c, device, nullptr);
  Failure failure;
  must(cuda::evaluate(call.problem(), &failure), "evaluate");
  const DeviceCase& d = call.read();
  for (size_t row = 0; row < 3; ++row) {
    EXPECT(d.outputs[RowOutput::nonFinite * 3 + row] == (row == 1 ? 1 : 0), "row %d", static_cast<int>(row));
    const double g = element(c.tensors[Case::gradient_c], d.bytes(Case::gradient_c).data(),
                             static_cast<int64_t>(row) * c.tensors[Case::gradient_c].row_stride);
    EXPECT(std::isnan(g) == (row == 1), "gradient of row %d: %g", static_cast<int>(row), g);
  }
  EXPECT(d.metrics[Metric::nonFiniteRows] == 1, "%g rows", d.metrics[Metric::nonFiniteRows]);
}

// How much is checked: on a device all of it, under a sanitizer less, and least where a processor runs the kernels.
enum class Extent { all, quick, small };

inline void check_everything(int device, Extent extent) {
  Maker make(20260101);
  const int64_t sizes[] = {1, 7, 8, 9, 513, 1024, 1025, 4099, 65536, 70001};
  const bool all = extent == Extent::all, small = extent == Extent::small;
  for (int type = 0; type < kDTypeCount; ++type) {
    const DType dtype = static_cast<DType>(type);
    for (const int64_t size : sizes) {
      if (small && size > 1025) continue;
      for (int repeat = 0; repeat < (all ? 8 : 2); ++repeat)
        check_case(make.make(dtype, false, 1 + make.pick(small ? 4 : 9), size, repeat > 0), device);
    }
    for (int repeat = 0; repeat < (all ? 5 : 1); ++repeat) {
      const int64_t size = small ? 700 + make.pick(900) : 5000 + make.pick(3000);
      check_case(make.make(DType::float32, true, 1 + make.pick(5), size, true), device);
    }
    if (all) check_case(make.make(dtype, false, 5, 600007, false), device);
    check_device_scalars(make.make(dtype, false, 3, small ? 2051 : 9001, true), device);
  }
  if (all) check_case(make.make(DType::bfloat16, false, 300, 3001, false), device);
  check_streams(make, device, small ? 2051 : 70001);
  check_failures(make, device);
  check_elementwise(make, device);
  check_numbers(make, device);
  check_bad_rows(make, device);
}

}  // namespace sdpo::checks
