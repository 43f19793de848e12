// JavaScript values as numbers, enumerators and memory: one reader for all exports, which keeps memory safe. Everything
// else was checked in TypeScript.
#pragma once

#include <napi.h>

#include "../core/backends.h"
#include "../core/objectives.h"

namespace sdpo {

// Throws an error with the code ERR_SDPO_INTERNAL: a mistake of this package, not of its user.
[[noreturn]] void fail(Napi::Env env, const char* message);

// The error of a call for which the host has no memory, ERR_SDPO_OUT_OF_MEMORY.
Napi::Error out_of_memory(Napi::Env env);

// ---- Numbers

// Sizes, strides and counts: an integer from 0 to 2^53 - 1.
int64_t whole(Napi::Env env, double number);
inline int64_t whole(const Napi::Value& value) { return whole(value.Env(), value.As<Napi::Number>().DoubleValue()); }

// A number of threads, 0 for the default; throws where the call is on the host and SDPO_NUM_THREADS gives none.
int thread_count(Napi::Env env, double number, const Location& where);

// The default number of threads; throws a RangeError ERR_SDPO_INVALID_ARG_VALUE where SDPO_NUM_THREADS gives none.
int default_threads(Napi::Env env);

// A position in a list of `count` names.
int position(Napi::Env env, double number, size_t count);

inline DType dtype(Napi::Env env, double number) { return static_cast<DType>(position(env, number, kDTypeCount)); }

// Where memory lies, as a number: 0 is the host, n + 1 is cuda:n. Throws where this build has no backend for it.
Location location(Napi::Env env, double number);

// ---- Memory

// The memory of a JavaScript typed array; null data for null and undefined.
struct ArrayMemory {
  void* data = nullptr;
  size_t length = 0;
  napi_typedarray_type type = napi_uint8_array;
  bool present = false;
};

ArrayMemory array_memory(const Napi::Value& value);

// A Float64Array of at least `least` entries.
double* float64_array(const Napi::Value& value, double least);

// An address or a stream handle given as a bigint; null and undefined are a null pointer.
void* address(const Napi::Value& value);

// An address for `dtype`; null only where it is `empty`: there is nothing to read or write.
void* aligned_address(const Napi::Value& value, DType dtype, bool empty);

// The element type that a typed array must have to hold a dtype.
bool holds(napi_typedarray_type array, DType dtype);

// `rows` runs of `size` elements of `dtype`, `stride` elements apart, in an array of the host or at an address of a
// device. An empty array has no address; it is given one, since a null pointer means 'absent' further on.
void* tensor_memory(const Napi::Value& value, DType dtype, int64_t rows, int64_t size, int64_t stride,
                    const Location& where);

}  // namespace sdpo
