// Random batches for the checks of the CUDA kernels against the CPU backend: every dtype, odd sizes, alignments,
// strides and weights.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../../native/core/objectives.h"
#include "../../../native/core/problem.h"
#include "../../../native/cuda/pack.cuh"

namespace sdpo::checks {

// One tensor of a batch: its bytes, with a gap in front that moves its alignment, and the view of it.
struct Tensor {
  std::vector<unsigned char> bytes;
  size_t offset = 0;  // bytes before the first element
  int64_t row_stride = 0;
  DType dtype = DType::float32;
  bool present = false;

  TensorView view(const void* base) const {
    if (!present) return {};
    return {static_cast<const char*>(base) + offset, row_stride, dtype};
  }
  MutableTensorView mutable_view(void* base) const {
    if (!present) return {};
    return {static_cast<char*>(base) + offset, row_stride, dtype};
  }
};

inline void set_element(Tensor& t, int64_t i, double value) {
  cuda::with_format(t.dtype, [&](auto storage) {
    using T = decltype(storage);
    const auto bits = cuda::Format<T>::narrow(value);
    std::memcpy(t.bytes.data() + t.offset + static_cast<size_t>(i) * sizeof(T), &bits, sizeof(T));
  });
}

inline double element(const Tensor& t, const void* base, int64_t i) {
  double value = 0;
  cuda::with_format(t.dtype, [&](auto storage) {
    using T = decltype(storage);
    typename cuda::Format<T>::Bits bits;
    std::memcpy(&bits, static_cast<const char*>(base) + t.offset + static_cast<size_t>(i) * sizeof(T), sizeof(T));
    value = static_cast<double>(cuda::Format<T>::widen(bits));
  });
  return value;
}

struct Case {
  enum Slot {
    policy_c,
    reference_c,
    target_c,
    gradient_c,
    policy_r,
    reference_r,
    target_r,
    gradient_r,
    weights,
    weights_r,  // of rejected alone
    slots
  };
  std::string name;
  Tensor tensors[slots];
  std::vector<double> numbers;   // [RowInput::count][rows]
  bool listed[RowInput::count];  // else the first row's number serves all
  std::vector<double> row_outputs, metrics;
  Problem problem;  // all but pointers

  const Tensor& weights_of(bool of_rejected) const {
    return tensors[of_rejected && tensors[weights_r].present ? weights_r : weights];
  }
  double& number(int field, int64_t row) { return numbers[static_cast<size_t>(field * problem.rows + row)]; }

  // The problem with its tensors at `bases`, and lists and results at the given places; lists lie on the host or with
  // the tensors.
  Problem at(void* const* bases, const double* lists, double* outputs, double* metrics_out,
             bool lists_on_host = true) const {
    Problem p = problem;
    const auto branch = [&](Branch& b, int first) {
      b.policy = tensors[first].view(bases[first]);
      b.reference = tensors[first + 1].view(bases[first + 1]);
      b.target = tensors[first + 2].view(bases[first + 2]);
      b.gradient = tensors[first + 3].mutable_view(bases[first + 3]);
    };
    branch(p.chosen, policy_c);
    branch(p.rejected, policy_r);
    p.element_weights = tensors[weights].view(bases[weights]);
    p.rejected_element_weights = tensors[weights_r].view(bases[weights_r]);
    for (int field = 0; field < RowInput::count; ++field) {
      RowColumn& column = p.columns.fields[field];
      column.value = numbers[static_cast<size_t>(field * p.rows)];
      if (!listed[field]) continue;
      column.data = lists + field * p.rows;
      column.on_host = lists_on_host;
    }
    p.row_outputs = outputs;
    p.metrics = metrics_out;
    return p;
  }
};

class Maker {
 public:
  explicit Maker(unsigned seed) : random_(seed) {}

  int pick(int n) { return static_cast<int>(random_() % static_cast<unsigned>(n)); }
  double uniform(double low, double high) {
    return low + (high - low) * (static_cast<double>(random_()) / 4294967296.0);
  }
  bool chance(double p) { return uniform(0, 1) < p; }

  // `special`: element weights, reference errors, strides, drift and such may occur. Otherwise a plain training batch.
  Case make(DType dtype, bool mixed, int64_t rows, int64_t size, bool special) {
    Case c;
    Problem& p = c.problem;
    p.rows = rows;
    p.size = size;
    const bool shared_target = special && chance(0.2);
    for (int slot = 0; slot < Case::slots; ++slot) {
      Tensor& t = c.tensors[slot];
      const bool gradient = slot == Case::gradient_c || slot == Case::gradient_r;
      t.dtype = mixed && !gradient ? static_cast<DType>(pick(kDTypeCount)) : dtype;
      if (gradient) t.dtype = c.tensors[slot == Case::gradient_c ? Case::policy_c : Case::policy_r].dtype;
      const bool of_elements = slot == Case::weights || slot == Case::weights_r;
      t.present = !of_elements;
      if (special) {
        if (of_elements) {
          t.present = slot == Case::weights ? chance(0.6) : c.tensors[Case::weights].present && chance(0.4);
          t.dtype = static_cast<DType>(pick(mixed ? kDTypeCount : 4));
          if (!mixed && dtype != DType::float64 && t.dtype == DType::float64) t.dtype = DType::float32;
        }
        if (slot == Case::reference_c || slot == Case::reference_r) t.present = chance(0.7);
        if (gradient) t.present = chance(0.9);
      }
      if (!t.present) continue;
      const size_t bytes = dtype_size(t.dtype);
      const bool one_row =
          !gradient && special && ((of_elements && chance(0.5)) || (shared_target && slot == Case::target_c));
      t.row_stride = one_row ? 0 : size + (special && chance(0.4) ? pick(9) : 0);
      t.offset = special && chance(0.3) ? bytes * static_cast<size_t>(pick(8)) : 0;
      t.bytes.assign(t.offset + static_cast<size_t>((rows - 1) * t.row_stride + size) * bytes,
                     0xff);  // NaN where nothing may be read
      if (gradient) continue;
      for (int64_t row = 0; row < (one_row ? 1 : rows); ++row) {
        for (int64_t i = 0; i < size; ++i) {
          const double x = of_elements ? (chance(0.2) ? 0 : uniform(0.25, 2)) : uniform(-2, 2);
          set_element(t, row * t.row_stride + i, x);
        }
        if (of_elements) set_element(t, row * t.row_stride + pick(static_cast<int>(size)), 1);
      }
    }
    // A weight of 0 hides anything, also NaN.
    for (const bool of_rejected : {false, true}) {
      const Tensor& e = c.weights_of(of_rejected);
      Tensor& policy = c.tensors[of_rejected ? Case::policy_r : Case::policy_c];
      if (!e.present || e.row_stride != 0) continue;
      for (int64_t row = 0; row < rows; ++row) {
        for (int64_t i = 0; i < size; ++i) {
          if (element(e, e.bytes.data(), i) == 0 && chance(0.3)) set_element(policy, row * policy.row_stride + i, NAN);
        }
      }
    }
    choose_numbers(c, special);
    c.row_outputs.assign(static_cast<size_t>(RowOutput::count * rows), NAN);
    c.metrics.assign(Metric::count, NAN);
    choose_options(c, special);
    p.denominator = static_cast<double>(rows);
    p.gradient_scale = 16;
    c.name = std::string(mixed ? "mixed" : kDTypeNames[static_cast<int>(dtype)]) + (special ? " special " : " plain ") +
             std::to_string(rows) + "x" + std::to_string(size);
    return c;
  }

 private:
  void choose_numbers(Case& c, bool special) {
    const int64_t rows = c.problem.rows;
    c.numbers.resize(static_cast<size_t>(RowInput::count * rows));
    for (int field = 0; field < RowInput::count; ++field) {
      c.listed[field] = chance(0.5);
      for (int64_t row = 0; row < rows; ++row) c.number(field, row) = kRowInputDefaults[field];
    }
    for (int64_t row = 0; row < rows; ++row) {
      c.number(RowInput::omegaChosen, row) = chance(0.1) ? INFINITY : uniform(0, 0.2);
      c.number(RowInput::omegaRejected, row) = uniform(0, 0.2);
      c.number(RowInput::timestepChosen, row) = pick(1000);
      c.number(RowInput::timestepRejected, row) = pick(1000);
      c.number(RowInput::offsetChosen, row) = special ? uniform(-0.1, 0.1) : 0;
      c.number(RowInput::noiseRejected, row) = special && chance(0.3) ? uniform(-1, 1) : 0;
      c.number(RowInput::referenceErrorChosen, row) = uniform(0.5, 3);
      c.number(RowInput::referenceErrorRejected, row) = uniform(0.5, 3);
      c.number(RowInput::betaScaleChosen, row) = uniform(0.2, 2);
      c.number(RowInput::betaScaleRejected, row) = uniform(0.2, 2);
      c.number(RowInput::margin, row) = special ? uniform(-0.5, 0.5) : 0;
      c.number(RowInput::keep, row) = special && chance(0.1) ? 0 : 1;
      c.number(RowInput::maskThreshold, row) = chance(0.5) ? 0 : 0.8;
      c.number(RowInput::rowWeight, row) = uniform(0.5, 1.5);
    }
  }

  template <class T>
  T any() {
    return static_cast<T>(pick(static_cast<int>(NamesOf<T>::count)));
  }

  void choose_options(Case& c, bool special) {
    Problem& p = c.problem;
    ObjectiveOptions& o = p.options;
    o.objective = any<Objective>();
    o.link = any<Link>();
    o.pair_weight = any<PairWeight>();
    o.weight_ratio = any<WeightRatio>();
    o.timestep_weighting = chance(0.2) ? TimestepWeighting::elbo : TimestepWeighting::constant;
    o.log_ratio_reduction = special && chance(0.2) ? LogRatioReduction::sum : LogRatioReduction::mean;
    o.weight_gradient = chance(0.3);
    o.beta = uniform(0.2, 4);
    o.label_smoothing = chance(0.2) ? 0.1 : 0;
    o.weight_sharpness = uniform(0.5, 1.5);
    o.weight_exponent = chance(0.7) ? 1 : pick(4) - 1;
    if (chance(0.3)) {
      o.log_ratio_clip_low = 0.7;
      o.log_ratio_clip_high = 1.5;
    }
    if (chance(0.2)) {
      o.window_low = 100;
      o.window_high = 800;
    }
    const bool references = c.tensors[Case::reference_c].present && c.tensors[Case::reference_r].present;
    o.kl_weight = special && references && chance(0.4) ? 0.3 : 0;
    o.kl_scope = any<Scope>();
    o.sft_weight = chance(0.2) ? 0.1 : 0;
    o.sft_scope = any<Scope>();
    const bool one_weighting = !c.tensors[Case::weights_r].present;  // which a mean over pairs of elements needs
    p.passes =
        Pass::moments | Pass::objective | Pass::gradients | (special && one_weighting && chance(0.4) ? Pass::cross : 0);
    o.safeguard = (p.passes & Pass::cross) && chance(0.7) ? 0.5 : -1;
    o.safeguard_scope = any<SafeguardScope>();
    o.non_finite = NonFinite::propagate;
  }

  std::mt19937 random_;
};

}  // namespace sdpo::checks
