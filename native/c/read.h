// The structs of sdpo.h as a Problem, with checks of what could corrupt memory.
#pragma once

#include "../core/backends.h"
#include "../core/objectives.h"
#include "failure.h"

namespace sdpo {

sdpo_options default_options();
sdpo_problem default_problem();
sdpo_column default_column(int field);

// Fills a caller's struct, of whatever version of the header, with defaults.
template <class T>
sdpo_status initialise(T* out, const T& defaults, size_t size, const char* what);

Problem read_problem(const sdpo_problem* given, int passes);

// ---- Fields

template <class Enum>
Enum enumerator(int32_t value, const char* what) {
  constexpr size_t count = NamesOf<Enum>::count;
  if (value < 0 || value >= static_cast<int32_t>(count)) {
    SDPO_REFUSE("Expected %s to be a position in a list of %zu names, received %d", what, count, value);
  }
  return static_cast<Enum>(value);
}

DType dtype(int32_t value, const char* what);
Location location(const sdpo_location& given, const char* what);
void check_count(int64_t value, const char* what);
// Whether rows * size elements can be memory.
void check_extent(int64_t rows, const char* rows_name, int64_t size, const char* size_name);
int thread_count(int32_t threads, const Location& where);
const Backend& backend_of(const Location& where);

// Refuses a place for results that is not aligned to its elements of `bytes`: vectors of them would not be either.
void check_aligned(const void* data, size_t bytes, const char* what);

TensorView tensor_view(const sdpo_tensor& given, int64_t rows, int64_t size, const char* what);
MutableTensorView output_view(const sdpo_output& given, int64_t rows, int64_t size, const char* what);

}  // namespace sdpo
