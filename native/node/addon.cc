// The addon's exports; binding.d.ts declares each of them.
#include <napi.h>

#include "../core/backends.h"
#include "../core/row_inputs.h"
#include "call.h"
#include "device_addon.h"
#include "worker.h"

namespace sdpo {
namespace {

Napi::Value evaluate(const Napi::CallbackInfo& info) {
  double* out = nullptr;
  const Problem problem = read_problem(info, &out);
  Failure failure;
  const Status status = backend_for(problem.tensors)->evaluate(problem, &failure);
  check_device(info.Env(), problem.tensors, status);
  return Napi::Number::New(info.Env(), report(status, failure, out));
}

Napi::Value evaluate_async(const Napi::CallbackInfo& info) {
  double* out = nullptr;
  const Problem problem = read_problem(info, &out);
  if (out == nullptr) fail(info.Env(), "a call with scalars on a device is evaluate's");  // it returns without waiting
  if (problem.tensors.kind != Location::host) return evaluate_on_device(info, problem);
  return EvaluateWorker::start(info, problem, out);
}

// A device that is left out is the host.
Location location_at(const Napi::CallbackInfo& info, size_t index) {
  return info[index].IsUndefined() ? Location() : location(info.Env(), info[index].As<Napi::Number>().DoubleValue());
}

// An address for `dtype`; with nothing to read or write it may be null.
void* aligned_address(const Napi::Value& value, DType dtype, bool empty) {
  void* const data = address(value);
  if (reinterpret_cast<uintptr_t>(data) % dtype_size(dtype) != 0)
    fail(value.Env(), "an address is not aligned to its dtype");
  if (data == nullptr && !empty) fail(value.Env(), "an address is null");
  return data;
}

// combine(rows, size, dtype, a, b, x, xStride, y, yStride, out, threads, device, stream)
Napi::Value combine(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto number = [&](size_t index) {
    const double value = info[index].As<Napi::Number>().DoubleValue();
    if (!(value >= 0 && value <= 9007199254740991.0)) fail(env, "a size or stride is out of range");
    return static_cast<int64_t>(value);
  };
  CombineProblem problem;
  problem.rows = number(0);
  problem.size = number(1);
  const int64_t dtype = number(2);
  if (dtype >= kDTypeCount) fail(env, "an enumerator is out of range");
  const DType type = static_cast<DType>(dtype);
  const auto factors = [&](size_t index) {
    const ArrayMemory memory = array_memory(info, index);
    if (memory.type != napi_float64_array || static_cast<double>(memory.length) < static_cast<double>(problem.rows)) {
      fail(env, "factors are not a Float64Array with an entry per row");
    }
    return static_cast<const double*>(memory.data);
  };
  problem.location = location_at(info, 11);
  problem.stream = address(info[12]);
  const auto tensor = [&](size_t index, int64_t stride) {
    if (problem.location.kind != Location::host) {
      return aligned_address(info[index], type, problem.rows == 0 || problem.size == 0);
    }
    const ArrayMemory memory = array_memory(info, index);
    const double needed = problem.rows > 0 ? static_cast<double>(problem.rows - 1) * static_cast<double>(stride) +
                                                 static_cast<double>(problem.size)
                                           : 0;
    if (!memory.present || !holds(memory.type, type) || needed > static_cast<double>(memory.length)) {
      fail(env, "a tensor's array has the wrong type or is too short (detached?)");
    }
    return memory.data;
  };
  problem.a = factors(3);
  problem.b = factors(4);
  problem.x = {tensor(5, number(6)), number(6), type};
  problem.y = {tensor(7, number(8)), number(8), type};
  problem.out = {tensor(9, problem.size), problem.size, type};
  problem.threads = static_cast<int>(number(10) & 0xffff);
  check_device(env, problem.location, backend_for(problem.location)->combine(problem));
  return env.Undefined();
}

// noise(seedLow, seedHigh, offset, out, dtype, words, threads, device, stream, count)
Napi::Value noise(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  NoiseProblem problem;
  const auto word = [&](size_t index) { return static_cast<uint64_t>(info[index].As<Napi::Number>().Uint32Value()); };
  problem.seed = word(0) | word(1) << 32;
  problem.offset = static_cast<uint64_t>(info[2].As<Napi::Number>().DoubleValue());
  const uint32_t dtype = info[4].As<Napi::Number>().Uint32Value();
  problem.words = info[5].As<Napi::Boolean>();
  if (dtype >= static_cast<uint32_t>(kDTypeCount)) fail(env, "an enumerator is out of range");
  problem.dtype = static_cast<DType>(dtype);
  problem.threads = static_cast<int>(word(6) & 0xffff);
  problem.location = location_at(info, 7);
  problem.stream = address(info[8]);
  if (problem.location.kind != Location::host) {
    const double count = info[9].As<Napi::Number>().DoubleValue();
    if (!(count >= 0 && count <= 9007199254740991.0)) fail(env, "a size is out of range");
    problem.count = static_cast<int64_t>(count);
    problem.out = aligned_address(info[3], problem.words ? DType::float32 : problem.dtype, problem.count == 0);
  } else {
    const ArrayMemory out = array_memory(info, 3);
    if (!out.present || !(problem.words ? out.type == napi_uint32_array : holds(out.type, problem.dtype))) {
      fail(env, "the output's array does not hold its dtype");
    }
    problem.out = out.data;
    problem.count = static_cast<int64_t>(out.length);
  }
  check_device(env, problem.location, backend_for(problem.location)->noise(problem));
  return env.Undefined();
}

// ---- What this binary is

template <size_t N>
Napi::Array names(Napi::Env env, const char* const (&list)[N]) {
  Napi::Array out = Napi::Array::New(env, N);
  for (size_t i = 0; i < N; ++i) out.Set(static_cast<uint32_t>(i), list[i]);
  return out;
}

// Every closed list and every field layout by name, so that lib/ can check at load time that it speaks to its own
// binary.
Napi::Object tables(Napi::Env env) {
  Napi::Object out = Napi::Object::New(env);
  out.Set("dtypes", names(env, kDTypeNames));
  out.Set("objectives", names(env, kObjectiveNames));
  out.Set("links", names(env, kLinkNames));
  out.Set("pairWeights", names(env, kPairWeightNames));
  out.Set("weightRatios", names(env, kWeightRatioNames));
  out.Set("scopes", names(env, kScopeNames));
  out.Set("nonFinite", names(env, kNonFiniteNames));
  out.Set("rowInputs", names(env, kRowInputNames));
  out.Set("rowOutputs", names(env, kRowOutputNames));
  out.Set("metrics", names(env, kMetricNames));
  out.Set("header", names(env, kHeaderNames));
  out.Set("operands", names(env, kOperandNames));
  out.Set("statuses", names(env, kStatusNames));
  out.Set("failureTensors", names(env, kFailureTensorNames));
  out.Set("failureFields", names(env, kFailureFieldNames));
  out.Set("rowFactors", names(env, kRowFactorNames));
  out.Set("rowChecks", names(env, kRowCheckNames));
  return out;
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("evaluate", Napi::Function::New<evaluate>(env, "evaluate"));
  exports.Set("evaluateAsync", Napi::Function::New<evaluate_async>(env, "evaluateAsync"));
  exports.Set("combine", Napi::Function::New<combine>(env, "combine"));
  exports.Set("noise", Napi::Function::New<noise>(env, "noise"));
  export_device(env, exports);
  exports.Set("tables", tables(env));
  return exports;
}

}  // namespace

NODE_API_MODULE(sdpo, init)

}  // namespace sdpo
