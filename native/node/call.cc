// Reads a header and typed arrays into a Problem, checking lengths and types so that no call can leave its arrays.
#include "call.h"

#include <cmath>
#include <string>

#include "../core/backends.h"

namespace sdpo {

void fail(Napi::Env env, const char* message) {
  Napi::Error error = Napi::TypeError::New(env, std::string("sdpo addon: ") + message);
  error.Set("code", "ERR_SDPO_INTERNAL");
  throw error;
}

ArrayMemory array_memory(const Napi::Value& value) {
  ArrayMemory memory;
  // Most values are arrays, and asking for what is not needed costs as much as the rest: the type of the value, its
  // buffer.
  if (napi_get_typedarray_info(value.Env(), value, &memory.type, &memory.length, &memory.data, nullptr, nullptr) ==
      napi_ok) {
    memory.present = true;
  } else if (!value.IsNull() && !value.IsUndefined()) {
    fail(value.Env(), "expected a typed array or null");
  }
  return memory;
}

ArrayMemory array_memory(const Napi::CallbackInfo& info, size_t index) { return array_memory(info[index]); }

Location location(Napi::Env env, double number) {
  constexpr double kMostDevices = 1024;
  Location out;
  if (number == 0) return out;
  if (!(number > 0 && number <= kMostDevices) || number != std::floor(number)) fail(env, "a device is out of range");
  out.kind = Location::cuda;
  out.ordinal = static_cast<int>(number) - 1;
  if (backend_for(out) == nullptr) fail(env, "this build has no backend for the device");
  return out;
}

void* address(const Napi::Value& value) {
  if (value.IsNull() || value.IsUndefined()) return nullptr;
  if (!value.IsBigInt()) fail(value.Env(), "expected an address as a bigint or null");
  bool lossless = false;
  const uint64_t bits = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless || bits > UINTPTR_MAX) fail(value.Env(), "an address is out of range");
  return reinterpret_cast<void*>(static_cast<uintptr_t>(bits));
}

bool holds(napi_typedarray_type array, DType dtype) {
  switch (dtype) {
    case DType::float64:
      return array == napi_float64_array;
    case DType::float32:
      return array == napi_float32_array;
    case DType::float16:
    case DType::bfloat16:
      return array == napi_uint16_array;
  }
  return false;
}

namespace {

// Larger than any array: products of two such numbers stay below 2^106, so they are compared in floating point first.
constexpr double kLargest = 9007199254740991.0;

int64_t integer(Napi::Env env, double value) {
  if (!(value >= 0 && value <= kLargest) || value != std::floor(value))
    fail(env, "a size or stride is not an integer >= 0");
  return static_cast<int64_t>(value);
}

template <class Enum>
Enum enumerator(Napi::Env env, double value, size_t count) {
  if (!(value >= 0 && value < static_cast<double>(count))) fail(env, "an enumerator is out of range");
  return static_cast<Enum>(static_cast<int>(value));
}

double* float64_array(const Napi::CallbackInfo& info, size_t index, double least) {
  const ArrayMemory memory = array_memory(info, index);
  if (!memory.present || memory.type != napi_float64_array || static_cast<double>(memory.length) < least) {
    fail(info.Env(), "a Float64Array of scalars is missing or too short");
  }
  return static_cast<double*>(memory.data);
}

double* float64_address(const Napi::CallbackInfo& info, size_t index) {
  void* const data = address(info[index]);
  if (data == nullptr || reinterpret_cast<uintptr_t>(data) % sizeof(double) != 0)
    fail(info.Env(), "an address of scalars is null or not aligned");
  return static_cast<double*>(data);
}

struct OperandMemory {
  void* data;
  int64_t stride;
  DType dtype;
};

OperandMemory operand(const Napi::CallbackInfo& info, const double* header, int index, int64_t rows, int64_t size,
                      const Location& where) {
  const Napi::Env env = info.Env();
  const Napi::Value value = info[kFirstOperand + static_cast<size_t>(index)];
  if (value.IsNull() || value.IsUndefined()) return {nullptr, 0, DType::float32};
  const DType dtype = enumerator<DType>(env, header[Header::count + index], kDTypeCount);
  const double stride = header[Header::count + Operand::count + index];
  // An empty array may have no address, but a null pointer means 'absent' further on.
  static double nothing;
  if (where.kind != Location::host) {
    void* const data = address(value);
    if (reinterpret_cast<uintptr_t>(data) % dtype_size(dtype) != 0) fail(env, "an address is not aligned to its dtype");
    if (data == nullptr && rows > 0 && size > 0) fail(env, "an address is null");
    return {data != nullptr ? data : &nothing, integer(env, stride), dtype};
  }
  const ArrayMemory memory = array_memory(value);
  if (!holds(memory.type, dtype)) fail(env, "a tensor's array does not hold its dtype");
  const double needed =
      rows > 0 ? static_cast<double>(rows - 1) * static_cast<double>(integer(env, stride)) + static_cast<double>(size)
               : 0;
  if (needed > static_cast<double>(memory.length)) fail(env, "a tensor's array is shorter than its rows (detached?)");
  return {memory.data != nullptr ? memory.data : &nothing, integer(env, stride), dtype};
}

template <class View>
View view(const OperandMemory& memory) {
  View out;
  out.data = memory.data;
  out.row_stride = memory.stride;
  out.dtype = memory.dtype;
  return out;
}

}  // namespace

Problem read_problem(const Napi::CallbackInfo& info, double** failure) {
  const Napi::Env env = info.Env();
  const double* header = float64_array(info, kHeaderArgument, kHeaderLength);
  const auto at = [&](Header::Index field) { return header[field]; };

  Problem problem;
  problem.passes = static_cast<int>(integer(env, at(Header::passes)) & 15);
  problem.rows = integer(env, at(Header::rows));
  problem.size = integer(env, at(Header::size));

  problem.tensors = location(env, at(Header::device));
  if (info[kRowInputs].IsBigInt()) {
    if (problem.tensors.kind == Location::host) fail(env, "scalars are on a device and tensors are not");
    problem.scalars = problem.tensors;
    problem.row_inputs = float64_address(info, kRowInputs);
    problem.row_outputs = float64_address(info, kRowOutputs);
    problem.metrics = float64_address(info, kMetrics);
    *failure = nullptr;
  } else {
    problem.row_inputs = float64_array(info, kRowInputs, static_cast<double>(problem.rows) * RowInput::count);
    problem.row_outputs = float64_array(info, kRowOutputs, static_cast<double>(problem.rows) * RowOutput::count);
    problem.metrics = float64_array(info, kMetrics, kMetricsLength);
    *failure = problem.metrics + Metric::count;
  }
  problem.stream = address(info[kStream]);
  const auto read = [&](Operand::Index index) {
    return operand(info, header, index, problem.rows, problem.size, problem.tensors);
  };
  problem.chosen = {view<TensorView>(read(Operand::policyChosen)), view<TensorView>(read(Operand::referenceChosen)),
                    view<TensorView>(read(Operand::targetChosen)),
                    view<MutableTensorView>(read(Operand::gradientChosen))};
  problem.rejected = {
      view<TensorView>(read(Operand::policyRejected)), view<TensorView>(read(Operand::referenceRejected)),
      view<TensorView>(read(Operand::targetRejected)), view<MutableTensorView>(read(Operand::gradientRejected))};
  problem.element_weights = view<TensorView>(read(Operand::elementWeights));
  for (const Branch* branch : {&problem.chosen, &problem.rejected}) {
    const bool reads = (problem.passes & (Pass::moments | Pass::gradients)) != 0;
    if (reads && (branch->policy.data == nullptr || branch->target.data == nullptr))
      fail(env, "policy or target is missing");
  }

  problem.options.objective = enumerator<Objective>(env, at(Header::objective), std::size(kObjectiveNames));
  problem.options.link = enumerator<Link>(env, at(Header::link), std::size(kLinkNames));
  problem.options.pair_weight = enumerator<PairWeight>(env, at(Header::pairWeight), std::size(kPairWeightNames));
  problem.options.weight_ratio = enumerator<WeightRatio>(env, at(Header::weightRatio), std::size(kWeightRatioNames));
  problem.options.sft_scope = enumerator<Scope>(env, at(Header::sftScope), std::size(kScopeNames));
  problem.options.kl_scope = enumerator<Scope>(env, at(Header::klScope), std::size(kScopeNames));
  problem.options.weight_gradient = at(Header::weightGradient) != 0;
  problem.options.sum_weight = at(Header::sumWeight) != 0;
  problem.options.sum_psi = at(Header::sumPsi) != 0;
  problem.options.beta = at(Header::beta);
  problem.options.label_smoothing = at(Header::labelSmoothing);
  problem.options.sft_weight = at(Header::sftWeight);
  problem.options.kl_weight = at(Header::klWeight);
  problem.options.safeguard = at(Header::safeguard);
  problem.options.dmpo_alpha = at(Header::dmpoAlpha);
  problem.options.mapo_scale = at(Header::mapoScale);
  problem.options.mapo_steps = at(Header::mapoSteps);
  problem.non_finite = enumerator<NonFinite>(env, at(Header::nonFinite), std::size(kNonFiniteNames));
  problem.denominator = at(Header::denominator);
  problem.gradient_scale = at(Header::gradientScale);
  problem.threads = static_cast<int>(integer(env, at(Header::threads)) & 0xffff);

  const ArrayMemory abort = array_memory(info, kAbort);
  if (abort.present) {
    if (abort.type != napi_int32_array || abort.length < 1) fail(env, "the abort flag is not an Int32Array");
    static_assert(sizeof(std::atomic<int32_t>) == sizeof(int32_t),
                  "JavaScript's Atomics and std::atomic share the representation");
    problem.abort = reinterpret_cast<const std::atomic<int32_t>*>(abort.data);
  }
  return problem;
}

int report(Status status, const Failure& failure, double* out) {
  if (status != Status::ok && out != nullptr) {
    out[FailureField::row] = static_cast<double>(failure.row);
    out[FailureField::branch] = failure.branch;
    out[FailureField::tensor] = static_cast<int>(failure.tensor);
    out[FailureField::element] = static_cast<double>(failure.element);
  }
  return static_cast<int>(status);
}

}  // namespace sdpo
