// Reads JavaScript values, and refuses what would lead out of their memory.
#include "values.h"

#include <cmath>
#include <string>

namespace sdpo {

void fail(Napi::Env env, const char* message) {
  Napi::Error error = Napi::TypeError::New(env, std::string("sdpo addon: ") + message);
  error.Set("code", "ERR_SDPO_INTERNAL");
  throw error;
}

int64_t whole(Napi::Env env, double number) {
  // Larger than any array: products of two such numbers stay below 2^106, so they are compared in floating point first.
  constexpr double kLargest = 9007199254740991.0;
  if (!(number >= 0 && number <= kLargest) || number != std::floor(number)) {
    fail(env, "a size or stride is not an integer >= 0");
  }
  return static_cast<int64_t>(number);
}

int default_threads(Napi::Env env) {
  const ThreadSetting& setting = cpu_default_threads();
  if (setting.problem.empty()) return setting.count;
  Napi::Error error = Napi::RangeError::New(env, setting.problem);
  error.Set("code", "ERR_SDPO_INVALID_ARG_VALUE");
  throw error;
}

int thread_count(Napi::Env env, double number, const Location& where) {
  const int threads = static_cast<int>(whole(env, number) & 0xffff);
  return threads == 0 && where.kind == Location::host ? default_threads(env) : threads;
}

int position(Napi::Env env, double number, size_t count) {
  if (!(number >= 0 && number < static_cast<double>(count))) fail(env, "an enumerator is out of range");
  return static_cast<int>(number);
}

Location location(Napi::Env env, double number) {
  constexpr double kMostDevices = 1024;
  Location out;
  if (number == 0) return out;
  if (!(number > 0 && number <= kMostDevices) || number != std::floor(number)) fail(env, "a device is out of range");
  out.kind = Location::cuda;
  out.ordinal = static_cast<int>(number) - 1;
  if (backend_for(out.kind) == nullptr) fail(env, "this build has no backend for the device");
  return out;
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

double* float64_array(const Napi::Value& value, double least) {
  const ArrayMemory memory = array_memory(value);
  if (!memory.present || memory.type != napi_float64_array || static_cast<double>(memory.length) < least) {
    fail(value.Env(), "a Float64Array is missing or too short");
  }
  return static_cast<double*>(memory.data);
}

void* address(const Napi::Value& value) {
  if (value.IsNull() || value.IsUndefined()) return nullptr;
  if (!value.IsBigInt()) fail(value.Env(), "expected an address as a bigint or null");
  bool lossless = false;
  const uint64_t bits = value.As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless || bits > UINTPTR_MAX) fail(value.Env(), "an address is out of range");
  return reinterpret_cast<void*>(static_cast<uintptr_t>(bits));
}

void* aligned_address(const Napi::Value& value, DType dtype, bool empty) {
  void* const data = address(value);
  if (reinterpret_cast<uintptr_t>(data) % dtype_size(dtype) != 0) {
    fail(value.Env(), "an address is not aligned to its dtype");
  }
  if (data == nullptr && !empty) fail(value.Env(), "an address is null");
  return data;
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

void* tensor_memory(const Napi::Value& value, DType dtype, int64_t rows, int64_t size, int64_t stride,
                    const Location& where) {
  static double nothing;
  void* data = nullptr;
  if (where.kind != Location::host) {
    data = aligned_address(value, dtype, rows == 0 || size == 0);
  } else {
    const ArrayMemory memory = array_memory(value);
    const double needed =
        rows > 0 ? static_cast<double>(rows - 1) * static_cast<double>(stride) + static_cast<double>(size) : 0;
    if (!memory.present || !holds(memory.type, dtype)) fail(value.Env(), "a tensor's array does not hold its dtype");
    if (needed > static_cast<double>(memory.length)) {
      fail(value.Env(), "a tensor's array is shorter than its rows (detached?)");
    }
    data = memory.data;
  }
  return data != nullptr ? data : &nothing;
}

}  // namespace sdpo
