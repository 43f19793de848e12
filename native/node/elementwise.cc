// Elementwise operations: a x + b y row by row, and noise by counter.
#include "device.h"
#include "exports.h"
#include "values.h"

namespace sdpo {
namespace {

// A device that is left out is the host.
Location location_of(const Napi::Value& value) {
  return value.IsUndefined() ? Location() : location(value.Env(), value.As<Napi::Number>().DoubleValue());
}

double number(const Napi::Value& value) { return value.As<Napi::Number>().DoubleValue(); }

// combine(rows, size, dtype, a, b, x, xStride, y, yStride, out, threads, device, stream)
Napi::Value combine(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  CombineProblem problem;
  problem.rows = whole(info[0]);
  problem.size = whole(info[1]);
  const DType type = dtype(env, number(info[2]));
  problem.a = float64_array(info[3], static_cast<double>(problem.rows));
  problem.b = float64_array(info[4], static_cast<double>(problem.rows));
  problem.location = location_of(info[11]);
  problem.stream = address(info[12]);
  const auto tensor = [&](size_t index, int64_t stride) {
    return tensor_memory(info[index], type, problem.rows, problem.size, stride, problem.location);
  };
  const int64_t x_stride = whole(info[6]), y_stride = whole(info[8]);
  problem.x = {tensor(5, x_stride), x_stride, type};
  problem.y = {tensor(7, y_stride), y_stride, type};
  problem.out = {tensor(9, problem.size), problem.size, type};
  problem.threads = thread_count(env, number(info[10]), problem.location);
  check_device(env, problem.location, backend_for(problem.location.kind)->combine(problem));
  return env.Undefined();
}

// noise(seedLow, seedHigh, offset, out, dtype, words, threads, device, stream, count)
Napi::Value noise(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  NoiseProblem problem;
  const auto word = [&](size_t index) { return static_cast<uint64_t>(info[index].As<Napi::Number>().Uint32Value()); };
  problem.seed = word(0) | word(1) << 32;
  problem.offset = static_cast<uint64_t>(number(info[2]));
  problem.dtype = dtype(env, number(info[4]));
  problem.words = info[5].As<Napi::Boolean>();
  problem.location = location_of(info[7]);
  problem.threads = thread_count(env, number(info[6]), problem.location);
  problem.stream = address(info[8]);
  if (problem.location.kind != Location::host) {
    problem.count = whole(info[9]);
    problem.out = aligned_address(info[3], problem.words ? DType::float32 : problem.dtype, problem.count == 0);
  } else {
    const ArrayMemory out = array_memory(info[3]);
    if (!out.present || !(problem.words ? out.type == napi_uint32_array : holds(out.type, problem.dtype))) {
      fail(env, "the output's array does not hold its dtype");
    }
    problem.out = out.data;
    problem.count = static_cast<int64_t>(out.length);
  }
  check_device(env, problem.location, backend_for(problem.location.kind)->noise(problem));
  return env.Undefined();
}

}  // namespace

void export_elementwise(Napi::Env env, Napi::Object exports) {
  add<combine>(env, exports, "combine");
  add<noise>(env, exports, "noise");
}

}  // namespace sdpo
