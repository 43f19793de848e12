// Runs the kernels' tiles on the host against the CPU backend: all dtypes, odd sizes, alignments, strides, element
// weights, each pass.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "../../../native/cpu/cpu.h"
#include "cases.h"
#include "emulator.h"

// The plainest instruction set is enough here, and it alone need be compiled.
namespace sdpo::cpu {
const KernelTable& kernels() { return *baseline_kernels(); }
}  // namespace sdpo::cpu

namespace {

using namespace sdpo;
using checks::Case;

struct Result {
  std::vector<std::vector<unsigned char>> tensors;
  std::vector<double> outputs, metrics;
  Problem problem;
};

Result prepare(const Case& c, const std::vector<double>& outputs) {
  Result r;
  r.outputs = outputs;
  r.metrics = c.metrics;
  std::vector<void*> bases;
  for (const checks::Tensor& t : c.tensors) r.tensors.push_back(t.bytes);
  for (auto& bytes : r.tensors) bases.push_back(bytes.data());
  r.problem = c.at(bases.data(), c.numbers.data(), r.outputs.data(), r.metrics.data());
  r.problem.threads = 1;
  return r;
}

enum class Kind { float64, float32, float16, bfloat16, mixed_float32, mixed_float64 };

template <class E>
unsigned long long emulate(const Problem& p, bool plain, bool poison) {
  // Three blocks: a short lead and a short ring, which then turns within a few rows.
  return plain ? cuda::Emulator<E, true>::run(p, 3, poison) : cuda::Emulator<E, false>::run(p, 3, poison);
}

unsigned long long emulate(Kind kind, const Problem& p, bool plain, bool poison = false) {
  switch (kind) {
    case Kind::float64:
      return emulate<cuda::Uniform<double>>(p, plain, poison);
    case Kind::float32:
      return emulate<cuda::Uniform<float>>(p, plain, poison);
    case Kind::float16:
      return emulate<cuda::Uniform<Float16>>(p, plain, poison);
    case Kind::bfloat16:
      return emulate<cuda::Uniform<BFloat16>>(p, plain, poison);
    case Kind::mixed_float32:
      return cuda::Emulator<cuda::Mixed<float>, false>::run(p, 3, poison);
    case Kind::mixed_float64:
      break;
  }
  return cuda::Emulator<cuda::Mixed<double>, false>::run(p, 3, poison);
}

// NaN equals NaN, whatever its bits.
bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

bool same_elements(const checks::Tensor& t, const std::vector<unsigned char>& a, const std::vector<unsigned char>& b) {
  const int64_t n = static_cast<int64_t>((a.size() - t.offset) / dtype_size(t.dtype));
  for (int64_t i = 0; i < n; ++i) {
    if (!same(element(t, a.data(), i), element(t, b.data(), i))) return false;
  }
  return std::equal(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(t.offset), b.begin());
}

void expect_outputs(const Case& c, const Result& a, const Result& b, int first, int last, const char* what) {
  for (int field = first; field < last; ++field) {
    for (int64_t row = 0; row < c.problem.rows; ++row) {
      const size_t i = static_cast<size_t>(field * c.problem.rows + row);
      EXPECT(same(a.outputs[i], b.outputs[i]), "%s, %s: %s of row %d: %.17g and %.17g", c.name.c_str(), what,
             kRowOutputNames[field], static_cast<int>(row), a.outputs[i], b.outputs[i]);
    }
  }
}

void expect_gradients(const Case& c, const Result& a, const Result& b, const char* what) {
  for (const int slot : {Case::gradient_c, Case::gradient_r}) {
    if (!c.tensors[slot].present) continue;
    EXPECT(same_elements(c.tensors[slot], a.tensors[static_cast<size_t>(slot)], b.tensors[static_cast<size_t>(slot)]),
           "%s, %s: gradient %d", c.name.c_str(), what, slot);
  }
}

// The mean of the magnitudes of what is summed, which a rounding error of a sum is measured by.
struct Magnitudes {
  double error, delta, drift, size;
};

Magnitudes magnitudes(const Case& c, int first, int64_t row) {
  const auto at = [&](int slot, int64_t i) {
    const checks::Tensor& t = c.tensors[slot];
    return element(t, t.bytes.data(), row * t.row_stride + i);
  };
  Magnitudes m{0, 0, 0, 0};
  double size = 0;
  const checks::Tensor& weights = c.weights_of(first == Case::policy_r);
  for (int64_t i = 0; i < c.problem.size; ++i) {
    const double e = weights.present ? element(weights, weights.bytes.data(), row * weights.row_stride + i) : 1;
    if (e == 0) continue;
    size += e;
    const double u = at(first, i), d = u - at(first + 2, i);
    m.error += e * d * d;
    if (!c.tensors[first + 1].present) continue;
    const double h = u - at(first + 1, i);
    m.delta += e * std::fabs(h) * (2 * std::fabs(d) + std::fabs(h));
    m.drift += e * h * h;
  }
  return {m.error / size, m.delta / size, m.drift / size, size};
}

// Two sums of the same numbers in different orders. A number passes through at most 256 additions of the compute type
// (a lane of the CPU's tile; fewer here) and is itself rounded a few times; both sides err by no more.
void expect_moments(const Case& c, const Result& cuda, const Result& cpu, bool wide) {
  const double epsilon = wide ? std::numeric_limits<double>::epsilon() : std::numeric_limits<float>::epsilon();
  const double steps = std::min<double>(256, static_cast<double>(c.problem.size)) + 16;
  const int64_t rows = c.problem.rows;
  for (int64_t row = 0; row < rows; ++row) {
    for (int branch = 0; branch < 2; ++branch) {
      const Magnitudes m = magnitudes(c, branch == 0 ? Case::policy_c : Case::policy_r, row);
      const auto check = [&](int field, double magnitude) {
        const size_t i = static_cast<size_t>((field + branch) * rows + row);
        const double a = cuda.outputs[i], b = cpu.outputs[i];
        EXPECT(same(a, b) || std::fabs(a - b) <= steps * epsilon * magnitude, "%s: %s of row %d: %.17g and %.17g",
               c.name.c_str(), kRowOutputNames[field + branch], static_cast<int>(row), a, b);
      };
      const bool reference = c.tensors[branch == 0 ? Case::reference_c : Case::reference_r].present;
      check(RowOutput::errorChosen, m.error);
      check(RowOutput::deltaChosen, reference ? m.delta : m.error);
      check(RowOutput::driftChosen, m.drift);
      check(RowOutput::elementSumChosen, m.size);
    }
    const size_t x = static_cast<size_t>(RowOutput::cross * rows + row);
    const double bound = magnitudes(c, Case::policy_c, row).error + magnitudes(c, Case::policy_r, row).error;
    EXPECT(
        same(cuda.outputs[x], cpu.outputs[x]) || std::fabs(cuda.outputs[x] - cpu.outputs[x]) <= steps * epsilon * bound,
        "%s: cross", c.name.c_str());
  }
}

void check(const Case& c, Kind kind) {
  const bool plain = !c.tensors[Case::weights].present && c.tensors[Case::reference_c].present &&
                     c.tensors[Case::reference_r].present && !(c.problem.passes & Pass::cross);
  Failure failure;

  // The fused call, its moments against the CPU's.
  Result fused = prepare(c, c.row_outputs), cpu = prepare(c, c.row_outputs);
  EXPECT(emulate(kind, fused.problem, plain) == 0, "%s: a failure", c.name.c_str());
  EXPECT(cpu::evaluate(cpu.problem, &failure) == Status::ok, "%s: a failure on the CPU", c.name.c_str());
  expect_moments(c, fused, cpu, kind == Kind::float64 || kind == Kind::mixed_float64);

  // From these moments on both must have the same bits: the objective, the metrics, the gradient. (A sum of element
  // weights is summed again by the CPU, in its own order, so that its bits follow only where there is none.)
  Result rest = prepare(c, fused.outputs);
  rest.problem.passes = Pass::objective | Pass::gradients;
  EXPECT(cpu::evaluate(rest.problem, &failure) == Status::ok, "%s: a failure on the CPU", c.name.c_str());
  if (!c.tensors[Case::weights].present) {
    expect_outputs(c, fused, rest, 0, RowOutput::count, "objective");
    for (int k = 0; k < Metric::count; ++k)
      EXPECT(same(fused.metrics[k], rest.metrics[k]), "%s: %s", c.name.c_str(), kMetricNames[k]);
    expect_gradients(c, fused, rest, "fused");
  }

  // The passes one by one give the bits of the fused call.
  Result parts = prepare(c, c.row_outputs);
  for (const int pass : {Pass::moments | (c.problem.passes & Pass::cross), static_cast<int>(Pass::objective),
                         static_cast<int>(Pass::gradients)}) {
    parts.problem.passes = pass;
    EXPECT(emulate(kind, parts.problem, plain) == 0, "%s: a failure", c.name.c_str());
  }
  expect_outputs(c, parts, fused, 0, RowOutput::count, "passes");
  expect_gradients(c, parts, fused, "passes");

  // Gradients over the policy itself.
  if (c.tensors[Case::gradient_c].present && c.tensors[Case::gradient_r].present &&
      c.tensors[Case::policy_c].row_stride != 0) {
    Case over = c;
    for (const int slot : {Case::gradient_c, Case::gradient_r}) {
      over.tensors[slot].row_stride = over.tensors[slot - 3].row_stride;
      over.tensors[slot].offset = over.tensors[slot - 3].offset;
      over.tensors[slot].bytes = over.tensors[slot - 3].bytes;
    }
    Result apart = prepare(over, c.row_outputs), in_place = prepare(over, c.row_outputs);
    in_place.problem.chosen.gradient.data =
        in_place.tensors[Case::policy_c].data() + over.tensors[Case::policy_c].offset;
    in_place.problem.rejected.gradient.data =
        in_place.tensors[Case::policy_r].data() + over.tensors[Case::policy_r].offset;
    emulate(kind, apart.problem, plain);
    emulate(kind, in_place.problem, plain);
    EXPECT(same_elements(over.tensors[Case::gradient_c], apart.tensors[Case::gradient_c],
                         in_place.tensors[Case::policy_c]),
           "%s: in place", c.name.c_str());
    EXPECT(same_elements(over.tensors[Case::gradient_r], apart.tensors[Case::gradient_r],
                         in_place.tensors[Case::policy_r]),
           "%s: in place", c.name.c_str());
  }
}

// The sums of a row depend neither on its alignment nor on the kernel: the plain one and the general one, vectors and
// single elements.
void check_alignment(checks::Maker& make, DType dtype, Kind kind) {
  Case c = make.make(dtype, false, 3, 2051, false);
  Result aligned = prepare(c, c.row_outputs), general = prepare(c, c.row_outputs);
  emulate(kind, aligned.problem, true);
  emulate(kind, general.problem, false);
  expect_outputs(c, general, aligned, 0, RowOutput::count, "general kernel");
  expect_gradients(c, general, aligned, "general kernel");
  Case moved = c;
  for (checks::Tensor& t : moved.tensors) {
    if (!t.present) continue;
    t.offset = dtype_size(t.dtype);
    t.bytes.insert(t.bytes.begin(), t.offset, 0xff);
  }
  Result odd = prepare(moved, c.row_outputs);
  emulate(kind, odd.problem, true);
  expect_outputs(c, odd, aligned, 0, RowOutput::count, "alignment");
}

// What makes a call fail, and which row is named.
void check_failures(checks::Maker& make) {
  const auto failed = [](Result& r, bool plain) { return emulate(Kind::float32, r.problem, plain); };
  Case c = make.make(DType::float32, false, 5, 1500, false);
  for (const int slot : {Case::policy_c, Case::target_r}) {
    for (const int64_t row : {3, 1})
      set_element(c.tensors[slot], row * c.tensors[slot].row_stride + 7, row == 3 ? NAN : INFINITY);
  }
  c.problem.options.non_finite = NonFinite::fail;
  Result r = prepare(c, c.row_outputs);
  const unsigned long long code = failed(r, true);
  EXPECT(code != 0 && (cuda::kFailureBase - code) / 2 == 1 &&
             (cuda::kFailureBase - code) % 2 == cuda::RowFailure::non_finite,
         "the lowest bad row: %llu", cuda::kFailureBase - code);
  for (int64_t row = 0; row < 5; ++row) {
    const double flag = r.outputs[static_cast<size_t>(RowOutput::nonFinite * 5 + row)];
    EXPECT(flag == (row == 1 || row == 3 ? 1 : 0), "row %d says %g", static_cast<int>(row), flag);
  }
  EXPECT(r.metrics[Metric::nonFiniteRows] == 2, "two rows are counted");
  c.problem.options.non_finite = NonFinite::skip;
  Result skipped = prepare(c, c.row_outputs), cpu = prepare(c, c.row_outputs);
  EXPECT(failed(skipped, true) == 0, "skip");
  Failure failure;
  EXPECT(cpu::evaluate(cpu.problem, &failure) == Status::ok, "skip");
  EXPECT(skipped.metrics[Metric::nonFiniteRows] == 2 && cpu.metrics[Metric::nonFiniteRows] == 2,
         "two rows are removed");
  for (int64_t i = 0; i < c.problem.size; ++i) {
    EXPECT(element(c.tensors[Case::gradient_c], skipped.tensors[Case::gradient_c].data(), 3 * c.problem.size + i) == 0,
           "a removed row");
  }

  for (int k = 0; k < 8; ++k) {
    const double bad = std::array{-1.0, static_cast<double>(NAN), static_cast<double>(INFINITY), 0.0}[k % 4];
    const bool apart = k >= 4;  // those of rejected alone
    Case weighted = make.make(DType::float32, false, 3, 700, false);
    for (const int slot : {Case::weights, Case::weights_r}) {
      checks::Tensor& e = weighted.tensors[slot];
      e.present = slot == Case::weights || apart;
      e.dtype = DType::float32;
      e.row_stride = 700;
      e.bytes.resize(3 * 700 * 4);
      for (int64_t i = 0; i < 3 * 700; ++i) set_element(e, i, 1);
    }
    checks::Tensor& e = weighted.tensors[apart ? Case::weights_r : Case::weights];
    for (int64_t i = bad == 0 ? 0 : 699; i < 700; ++i) set_element(e, 2 * 700 + i, bad);
    weighted.problem.options.non_finite = NonFinite::propagate;
    Result w = prepare(weighted, weighted.row_outputs);
    const unsigned long long weight_code = failed(w, false);
    EXPECT(weight_code != 0 && (cuda::kFailureBase - weight_code) / 2 == 2 &&
               (cuda::kFailureBase - weight_code) % 2 == cuda::RowFailure::element_weights,
           "a weight of %g: %llu", bad, cuda::kFailureBase - weight_code);
    for (int field = 0; field < RowOutput::count; ++field) {
      const double out = w.outputs[static_cast<size_t>(field * 3 + 2)];
      EXPECT(field == RowOutput::nonFinite ? out == 1 : std::isnan(out), "%s of the row: %g", kRowOutputNames[field],
             out);
    }
    EXPECT(w.metrics[Metric::nonFiniteRows] == 1 && std::isnan(w.metrics[Metric::batchLoss]), "the metrics tell of it");
  }
}

// Results that nobody looks at before they are used: the gradient of a failed row is NaN in every element, that of the
// others what it is without it.
void check_poison(checks::Maker& make) {
  struct Bad {
    DType dtype;
    Kind kind;
    bool weights;  // of the row sum to 0; else a NaN in it
  };
  for (const Bad& bad : {Bad{DType::float32, Kind::float32, true}, Bad{DType::bfloat16, Kind::bfloat16, true},
                         Bad{DType::float64, Kind::float64, false}, Bad{DType::float16, Kind::float16, false}}) {
    constexpr int64_t kRows = 3, kBad = 1;
    Case c = make.make(bad.dtype, false, kRows, 1501, false);
    for (auto& x : c.numbers) x = std::isinf(x) ? 1 : x;
    c.problem.options.non_finite = NonFinite::fail;
    checks::Tensor& e = c.tensors[Case::weights];
    if (bad.weights) {
      e.present = true;
      e.dtype = DType::float32;
      e.row_stride = c.problem.size;
      e.bytes.resize(static_cast<size_t>(kRows * c.problem.size) * 4);
      for (int64_t i = 0; i < kRows * c.problem.size; ++i) set_element(e, i, i % 5 == 0 ? 0 : 1);
    }
    Result good = prepare(c, c.row_outputs);
    EXPECT(emulate(bad.kind, good.problem, !bad.weights, true) == 0, "%s: a failure", c.name.c_str());
    if (bad.weights) {
      for (int64_t i = 0; i < c.problem.size; ++i) set_element(e, kBad * e.row_stride + i, 0);
    } else {
      set_element(c.tensors[Case::reference_c], kBad * c.problem.size + 7, NAN);
    }
    const auto expect = [&](const Result& r, const char* what) {
      for (const int slot : {Case::gradient_c, Case::gradient_r}) {
        const checks::Tensor& t = c.tensors[slot];
        const auto at = [&](const Result& from, int64_t i) {
          return element(t, from.tensors[static_cast<size_t>(slot)].data(), i);
        };
        for (int64_t i = 0; i < kRows * c.problem.size; ++i) {
          const bool failed = i / c.problem.size == kBad;
          const double g = at(r, i);
          EXPECT(failed ? std::isnan(g) : same(g, at(good, i)), "%s, %s: element %d is %g", c.name.c_str(), what,
                 static_cast<int>(i), g);
        }
      }
    };
    Result r = prepare(c, c.row_outputs);
    EXPECT(emulate(bad.kind, r.problem, !bad.weights, true) != 0, "%s: no failure", c.name.c_str());
    expect(r, "fused");
    if (bad.weights) continue;
    Result parts = prepare(c, c.row_outputs);
    parts.problem.passes = Pass::moments | Pass::objective;
    EXPECT(emulate(bad.kind, parts.problem, true, true) != 0, "%s: no failure", c.name.c_str());
    parts.problem.passes = Pass::gradients;
    EXPECT(emulate(bad.kind, parts.problem, true, true) == 0, "%s: a failure", c.name.c_str());
    expect(parts, "passes");
  }
}

// Conversions of the 16-bit formats: all values up and back, and rounding against the CPU's tables.
void check_formats() {
  const cpu::KernelTable& table = cpu::kernels();
  std::mt19937 random(1);
  for (const DType type : {DType::float16, DType::bfloat16}) {
    cuda::with_format(type, [&](auto storage) {
      using T = decltype(storage);
      if constexpr (sizeof(T) == 2) {
        for (uint32_t bits = 0; bits < 65536; ++bits) {
          const uint16_t half = static_cast<uint16_t>(bits);
          float wide = 0;
          table.widen[static_cast<int>(type)][0](&half, &wide, 1);
          const float ours = cuda::Format<T>::widen(half);
          EXPECT(same(ours, wide), "%s %04x", kDTypeNames[static_cast<int>(type)], bits);
          EXPECT(std::isnan(ours) || cuda::Format<T>::narrow(ours) == half, "%s %04x",
                 kDTypeNames[static_cast<int>(type)], bits);
        }
        for (int i = 0; i < 200000; ++i) {
          const uint32_t bits = random();
          float x;
          std::memcpy(&x, &bits, 4);
          uint16_t half = 0;
          table.narrow[static_cast<int>(type)][0](&x, &half, 1);
          EXPECT(std::isnan(x) || cuda::Format<T>::narrow(x) == half, "%s of %08x", kDTypeNames[static_cast<int>(type)],
                 bits);
        }
      }
    });
  }
}

}  // namespace

int main() {
  checks::Maker make(20260101);
  check_formats();
  const int64_t sizes[] = {1, 2, 3, 7, 8, 9, 127, 511, 512, 513, 1023, 1024, 1025, 2049, 4099, 12345};
  const Kind uniform[] = {Kind::float64, Kind::float32, Kind::float16, Kind::bfloat16};
  for (int type = 0; type < kDTypeCount; ++type) {
    const DType dtype = static_cast<DType>(type);
    for (const int64_t size : sizes) {
      for (int repeat = 0; repeat < 4; ++repeat)
        check(make.make(dtype, false, 1 + make.pick(7), size, repeat > 0), uniform[type]);
    }
    check(make.make(dtype, false, 2, 600007, false), uniform[type]);  // several packs per thread
    check_alignment(make, dtype, uniform[type]);
  }
  for (const int64_t size : sizes) {
    for (int repeat = 0; repeat < 6; ++repeat) {
      const Case c = make.make(DType::float32, true, 1 + make.pick(5), size, repeat > 0);
      bool wide = false;
      for (int slot = 0; slot < Case::slots; ++slot) {
        const bool input = slot != Case::gradient_c && slot != Case::gradient_r;
        wide = wide || (input && c.tensors[slot].present && c.tensors[slot].dtype == DType::float64);
      }
      check(c, wide ? Kind::mixed_float64 : Kind::mixed_float32);
    }
  }
  // Rows of the models, and rows whose tiles outnumber the lanes that add them up.
  for (const int64_t size : {16384, 65536, 65531, 131072 + 8}) {
    for (const Kind kind : {Kind::bfloat16, Kind::float32})
      check(make.make(kind == Kind::float32 ? DType::float32 : DType::bfloat16, false, 2, size, false), kind);
  }
  check_failures(make);
  check_poison(make);
  return report_checks();
}
