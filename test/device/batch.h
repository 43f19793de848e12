// Random batches, memory of a device, and a call of the C interface on either: what calls.cc compares.
#pragma once

#include <cuda_runtime_api.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "../../native/c/sdpo.h"

namespace sdpo_test {

inline long g_checks = 0, g_failures = 0, g_calls = 0;

// The first few failures are told, all are counted.
#define EXPECT(condition, ...)                                                \
  do {                                                                        \
    ++::sdpo_test::g_checks;                                                  \
    if (!(condition) && ++::sdpo_test::g_failures <= 20) {                    \
      std::printf("FAIL %s:%d: ", std::strrchr(__FILE__, '/') + 1, __LINE__); \
      std::printf(__VA_ARGS__);                                               \
      std::printf("\n");                                                      \
    }                                                                         \
  } while (0)

// A failure of the runtime outside of what is checked ends the program: nothing after it would mean anything.
#define CUDA(call)                                                      \
  do {                                                                  \
    const cudaError_t cuda_code = (call);                               \
    if (cuda_code != cudaSuccess) {                                     \
      std::printf("FAIL %s: %s\n", #call, cudaGetErrorName(cuda_code)); \
      std::exit(2);                                                     \
    }                                                                   \
  } while (0)

inline bool same(double a, double b) { return a == b || (std::isnan(a) && std::isnan(b)); }

class Random {
 public:
  explicit Random(uint64_t seed) : engine_(seed) {}
  int pick(int n) { return static_cast<int>(engine_() % static_cast<unsigned>(n)); }
  double uniform(double low, double high) {
    return low + (high - low) * static_cast<double>(engine_() >> 11) * 0x1p-53;
  }
  bool chance(double p) { return uniform(0, 1) < p; }

 private:
  std::mt19937_64 engine_;
};

// ---- Elements

enum DType { kFloat64, kFloat32, kFloat16, kBFloat16, kDTypes };
inline size_t bytes_of(int dtype) { return dtype == kFloat64 ? 8 : dtype == kFloat32 ? 4 : 2; }
inline double ulp_of(int dtype) {  // of 1
  constexpr double kUlps[] = {0x1p-52, 0x1p-23, 0x1p-10, 0x1p-7};
  return kUlps[dtype];
}
inline double smallest(int dtype) {
  constexpr double kSmallest[] = {0x1p-1074, 0x1p-149, 0x1p-24, 0x1p-133};
  return kSmallest[dtype];
}
inline int position(int dtype) {
  constexpr const char* kNames[] = {"float64", "float32", "float16", "bfloat16"};
  return sdpo_index("dtypes", kNames[dtype]);
}

inline double read(const unsigned char* p, int dtype) {
  double wide;
  float single;
  uint32_t word = 0;
  uint16_t half;
  switch (dtype) {
    case kFloat64:
      std::memcpy(&wide, p, sizeof wide);
      return wide;
    case kFloat32:
      std::memcpy(&single, p, sizeof single);
      return static_cast<double>(single);
    case kBFloat16:
      std::memcpy(&half, p, sizeof half);
      word = static_cast<uint32_t>(half) << 16;
      std::memcpy(&single, &word, sizeof single);
      return static_cast<double>(single);
    default:
      break;
  }
  std::memcpy(&half, p, sizeof half);
  const int exponent = half >> 10 & 31, fraction = half & 1023;
  const double magnitude = exponent == 31  ? (fraction != 0 ? NAN : INFINITY)
                           : exponent == 0 ? std::ldexp(fraction, -24)
                                           : std::ldexp(1024 + fraction, exponent - 25);
  return half >> 15 ? -magnitude : magnitude;
}

// The 16-bit types are given what they hold exactly: multiples of 1/64 below 4, and NaN.
inline void write(unsigned char* p, int dtype, double value) {
  const float single = static_cast<float>(value);
  uint32_t word;
  std::memcpy(&word, &single, sizeof word);
  if (dtype == kFloat64) {
    std::memcpy(p, &value, sizeof value);
  } else if (dtype == kFloat32) {
    std::memcpy(p, &single, sizeof single);
  } else {
    uint16_t half = static_cast<uint16_t>(word >> 16);
    if (dtype == kFloat16) {
      const uint32_t magnitude = word & 0x7fffffffu;
      half = static_cast<uint16_t>((word >> 16 & 0x8000u) | (std::isnan(value) ? 0x7e00u
                                                             : magnitude == 0  ? 0u
                                                                               : (magnitude - 0x38000000u) >> 13));
    }
    std::memcpy(p, &half, sizeof half);
  }
}

// ---- Batches

struct Tensor {
  int dtype = kFloat32;
  int64_t stride = 0;
  size_t front = 0;  // elements before the first
  bool present = false;
  std::vector<unsigned char> bytes;  // NaN where nothing may be read

  // `shared`: one row serves all. `odd`: with gaps, and not aligned. `rest`: what every byte is before.
  void make(Random& random, int type, int64_t rows, int64_t size, bool shared, bool odd, unsigned char rest = 0xff) {
    dtype = type;
    present = true;
    stride = shared ? 0 : size + (odd ? random.pick(6) : 0);
    front = odd ? static_cast<size_t>(random.pick(5)) : 0;
    bytes.assign(rows == 0 ? 0 : (front + static_cast<size_t>((rows - 1) * stride + size)) * bytes_of(dtype), rest);
  }
  size_t at(int64_t row, int64_t i) const { return (front + static_cast<size_t>(row * stride + i)) * bytes_of(dtype); }
  double get(int64_t row, int64_t i) const { return read(bytes.data() + at(row, i), dtype); }
  void set(int64_t row, int64_t i, double value) { write(bytes.data() + at(row, i), dtype, value); }
  void fill(Random& random, int64_t rows, int64_t size, bool weights = false) {
    for (int64_t row = 0; row < (stride == 0 && rows > 0 ? 1 : rows); ++row) {
      for (int64_t i = 0; i < size; ++i) {
        double value = weights ? random.uniform(0.25, 2) : random.uniform(-1.5, 1.5);
        if (bytes_of(dtype) == 2) value = std::rint(64 * value) / 64;
        set(row, i, weights && random.chance(0.2) ? 0 : value);
      }
      if (weights && size > 0) set(row, random.pick(static_cast<int>(size)), 1);
    }
  }
  sdpo_tensor view(const void* base) const {
    sdpo_tensor out{};
    if (present) out = {static_cast<const char*>(base) + front * bytes_of(dtype), stride, position(dtype), 0};
    return out;
  }
  sdpo_output output(void* base) const {
    sdpo_output out{};
    if (present) out = {static_cast<char*>(base) + front * bytes_of(dtype), stride, position(dtype), 0};
    return out;
  }
};

struct Shape {
  int64_t rows = 3, size = 2051;
  int dtype = kBFloat16;
  int targets = -1;    // their dtype, where it is another
  bool mixed = false;  // every tensor its own dtype
  bool plain = false;  // what the fastest kernels take: both references, no element weights, both gradients
  bool odd = false;    // gaps between rows, addresses that are not aligned
  bool over = false;   // gradients over their policy
};

enum class Bad { none, value, weights };
constexpr const char* kPolicies[] = {"throw", "skip", "propagate"};
constexpr double kLargestPsi = 2;  // psi's scale

struct Batch {
  enum Slot {
    policy_c,
    reference_c,
    target_c,
    gradient_c,
    policy_r,
    reference_r,
    target_r,
    gradient_r,
    element_weights,
    rejected_weights,
    slots
  };
  std::string name;
  int64_t rows, size;
  bool over;
  Tensor tensors[slots];
  sdpo_options options;
  std::vector<double> inputs;  // of every row input a list
  std::vector<bool> listed;    // else the first row's number serves all
  bool host_lists = false;     // although results lie on the device
  int64_t bad_row = -1;

  Batch(Random& random, const Shape& s, Bad bad, const char* policy, const std::string& what)
      : rows(s.rows), size(s.size), over(s.over) {
    const bool narrow = random.chance(0.5);  // a mixture without float64
    const auto any = [&] { return narrow ? 1 + random.pick(3) : random.pick(kDTypes); };
    const auto make = [&](Slot slot, int dtype, bool shared) {
      // A gradient that is not written must not look like one that is NaN, nor like one that is 0.
      const bool gradient = slot == gradient_c || slot == gradient_r;
      tensors[slot].make(random, dtype, rows, size, shared, s.odd, gradient ? 0x55 : 0xff);
    };
    for (const Slot first : {policy_c, policy_r}) {
      const auto type = [&] { return s.mixed ? any() : s.dtype; };
      make(first, type(), false);
      if (s.plain || random.chance(0.7)) make(static_cast<Slot>(first + 1), type(), !s.plain && random.chance(0.2));
      make(static_cast<Slot>(first + 2), s.targets >= 0 ? s.targets : type(), !s.plain && random.chance(0.2));
      if (s.plain || random.chance(0.85)) {
        Tensor& g = tensors[first + 3];
        make(static_cast<Slot>(first + 3), over ? tensors[first].dtype : type(), false);
        if (over) g.stride = tensors[first].stride, g.front = tensors[first].front, g.bytes.clear();
      }
    }
    if (bad == Bad::weights || (!s.plain && random.chance(0.5)))
      make(element_weights, random.chance(0.5) ? kFloat32 : any(), bad != Bad::weights && random.chance(0.4));
    if (weights(0).present && random.chance(0.5))
      make(rejected_weights, random.chance(0.5) ? kFloat32 : any(), bad != Bad::weights && random.chance(0.4));
    name = what + ", " + std::to_string(rows) + " x " + std::to_string(size) +
           (s.mixed ? " mixed" : " " + std::to_string(s.dtype)) + (s.plain ? " plain" : "") + (s.odd ? " odd" : "") +
           (over ? " over" : "") + (weights(0).present ? " weighted" : "") + (apart() ? " by branch" : "") + " " +
           policy;
    choose_options(random, s.plain, policy);
    for (int field = 0; field < sdpo_count("rowInputs"); ++field) listed.push_back(random.chance(0.6));
    renew(random);
    if (bad != Bad::none) spoil(random, bad);
  }

  const Tensor& policy(int branch) const { return tensors[branch == 0 ? policy_c : policy_r]; }
  const Tensor& reference(int branch) const { return tensors[branch == 0 ? reference_c : reference_r]; }
  const Tensor& target(int branch) const { return tensors[branch == 0 ? target_c : target_r]; }
  const Tensor& gradient(int branch) const { return tensors[branch == 0 ? gradient_c : gradient_r]; }
  bool apart() const { return tensors[rejected_weights].present; }  // each branch has its own element weights
  const Tensor& weights(int branch) const {
    return tensors[branch != 0 && apart() ? rejected_weights : element_weights];
  }
  std::string name_of(const char* list, int index) const { return sdpo_name(list, index); }

  // The type that the sums and gradients are computed in.
  int compute() const {
    bool wide = false;
    for (int slot = 0; slot < slots; ++slot)
      wide = wide ||
             (slot != gradient_c && slot != gradient_r && tensors[slot].present && tensors[slot].dtype == kFloat64);
    return wide ? kFloat64 : kFloat32;
  }

  // Other numbers in the same places.
  void renew(Random& random) {
    for (int slot = 0; slot < slots; ++slot) {
      Tensor& t = tensors[slot];
      if (t.present && slot != gradient_c && slot != gradient_r) t.fill(random, rows, size, slot >= element_weights);
    }
    const int fields = sdpo_count("rowInputs");
    std::vector<sdpo_column> defaults(static_cast<size_t>(fields));
    sdpo_columns_init(defaults.data(), fields);
    inputs.clear();
    for (const sdpo_column& column : defaults) inputs.insert(inputs.end(), static_cast<size_t>(rows), column.value);
    for (int64_t row = 0; row < rows; ++row) {
      const auto in = [&](const char* field) -> double& {
        return inputs[static_cast<size_t>(sdpo_index("rowInputs", field) * rows + row)];
      };
      in("betaScaleChosen") = random.uniform(0.1, 1);
      in("betaScaleRejected") = random.uniform(0.1, 1);
      in("omegaChosen") = random.uniform(0.05, 0.2);
      in("omegaRejected") = random.chance(0.2) ? random.uniform(2, 3) : random.uniform(0.05, 0.2);
      in("margin") = random.uniform(-0.5, 0.5);
      in("referenceErrorChosen") = random.uniform(0.5, 2);
      in("referenceErrorRejected") = random.uniform(0.5, 2);
      in("maskThreshold") = 0;
      in("rowWeight") = random.uniform(0.5, 1.5);
    }
  }

  // Numbers that are no lists are the call's, not the memory's.
  void keep_constants(const Batch& of) {
    for (size_t i = 0; i < inputs.size(); ++i)
      if (!listed[i / static_cast<size_t>(rows)]) inputs[i] = of.inputs[i];
  }

  // The batch with the row it was made from in the place of the bad one.
  void mend() { tensors[spoilt_] = whole_; }

 private:
  int spoilt_ = 0;
  Tensor whole_;

  void choose_options(Random& random, bool plain, const char* policy) {
    sdpo_options_init(&options, sizeof options);
    const auto any = [&](const char* list) { return random.pick(sdpo_count(list)); };
    const bool references = reference(0).present && reference(1).present;
    do options.objective = any("objectives");
    while (!references && name_of("objectives", options.objective) == "dspo");  // which needs the drift
    options.link = any("links");
    options.pair_weight = any("pairWeights");
    options.weight_ratio = any("weightRatios");
    options.weight_gradient = random.chance(0.3);
    options.beta = 2 * kLargestPsi;
    options.clip_low = 0.5;
    options.clip_high = 2;
    options.kl_weight = !plain && references && random.chance(0.3) ? 0.2 : 0;
    options.sft_weight = random.chance(0.2) ? 0.1 : 0;
    options.safeguard = !plain && !apart() && random.chance(0.3) ? 0.5 : -1;
    options.safeguard_scope = any("safeguardScopes");
    options.non_finite = sdpo_index("nonFinite", policy);
  }

  void spoil(Random& random, Bad bad) {
    bad_row = random.pick(static_cast<int>(rows));
    if (bad == Bad::weights) {
      spoilt_ = apart() && random.chance(0.5) ? rejected_weights : element_weights;
      whole_ = tensors[spoilt_];
      const int kind = random.pick(3);  // they sum to 0, one is negative, one is NaN
      for (int64_t i = 0; kind == 0 && i < size; ++i) tensors[spoilt_].set(bad_row, i, 0);
      if (kind > 0) tensors[spoilt_].set(bad_row, random.pick(static_cast<int>(size)), kind == 1 ? -1 : NAN);
      return;
    }
    const int64_t element = random.pick(static_cast<int>(size));
    for (const Slot slot : {element_weights, rejected_weights}) {  // an element of weight 0 may hold anything
      Tensor& e = tensors[slot];
      if (e.present) e.set(e.stride == 0 ? 0 : bad_row, element, 1);
    }
    spoilt_ = random.chance(0.5) ? policy_c : policy_r;
    whole_ = tensors[spoilt_];
    tensors[spoilt_].set(bad_row, element, NAN);
  }
};

// ---- Calls

class Memory {
 public:
  explicit Memory(const std::vector<unsigned char>& from) : bytes_(from.size()) {
    CUDA(cudaMalloc(&data, bytes_));
    write(from);
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  ~Memory() { CUDA(cudaFree(data)); }

  void write(const std::vector<unsigned char>& from) const { copy(data, from.data(), cudaMemcpyHostToDevice); }
  std::vector<unsigned char> read() const {
    std::vector<unsigned char> out(bytes_);
    copy(out.data(), data, cudaMemcpyDeviceToHost);
    return out;
  }
  void* data = nullptr;

 private:
  void copy(void* to, const void* from, cudaMemcpyKind kind) const {
    if (bytes_ == 0) return;
    CUDA(cudaMemcpyAsync(to, from, bytes_, kind, nullptr));
    CUDA(cudaStreamSynchronize(nullptr));
  }
  size_t bytes_;
};

struct Stream {
  cudaStream_t handle = nullptr;
  explicit Stream(bool own) {
    if (own) CUDA(cudaStreamCreateWithFlags(&handle, cudaStreamNonBlocking));
  }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() {
    if (handle != nullptr) CUDA(cudaStreamDestroy(handle));
  }
};

}  // namespace sdpo_test
