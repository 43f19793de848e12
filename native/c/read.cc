// Reads the structs of sdpo.h: those of other versions of the header, their fields, and how they fit together.
#include "read.h"

#include <cstddef>
#include <cstring>
#include <iterator>
#include <type_traits>

namespace sdpo {
namespace {

static_assert(SDPO_HOST == static_cast<int>(Location::host) && SDPO_CUDA == static_cast<int>(Location::cuda), "");

// Other languages lay sdpo_options out by the list.
constexpr size_t kOptionOffsets[] = {
#define SDPO_OFFSET(Type, field, name, value) offsetof(sdpo_options, field),
    SDPO_OPTIONS(SDPO_OFFSET)
#undef SDPO_OFFSET
};
constexpr bool in_order() {
  for (int i = 1; i < kOptionCount; ++i) {
    if (kOptionOffsets[i] <= kOptionOffsets[i - 1]) return false;
  }
  return true;
}
static_assert(in_order(), "the fields of sdpo_options follow the list of options");

// Sizes beyond this cannot be memory, and products of two of them still fit into 128 bits; sums of bytes then cannot
// overflow.
constexpr int64_t kLargest = int64_t{1} << 56;

// Copies a caller's struct over the defaults. Fields that the caller does not know keep their default; fields that this
// library does not know have to be zero, or the caller would ask for something that does not happen.
template <class T>
T known_part(const T* given, const T& defaults, const char* what) {
  if (given == nullptr) SDPO_REFUSE("Expected %s to be a pointer, received NULL", what);
  const size_t size = given->struct_size;
  if (size < sizeof(size_t) || size > 65536) {
    SDPO_REFUSE("Expected %s.struct_size to be set by its init function, received %zu", what, size);
  }
  const auto bytes = reinterpret_cast<const unsigned char*>(given);
  for (size_t i = sizeof(T); i < size; ++i) {
    if (bytes[i] != 0) {
      SDPO_REFUSE("Expected %s to be a struct of %zu bytes, received %zu with a field set that libsdpo " SDPO_VERSION
                  " does not know",
                  what, sizeof(T), size);
    }
  }
  T out = defaults;
  std::memcpy(&out, given, size < sizeof(T) ? size : sizeof(T));
  return out;
}

template <class T, class Given>
T option(Given value, const char* what) {
  if constexpr (std::is_enum_v<T>) {
    return enumerator<T>(value, what);
  } else {
    static_cast<void>(what);
    return static_cast<T>(value);
  }
}

ObjectiveOptions read_options(const sdpo_options* options) {
  const sdpo_options given = known_part(options, default_options(), "options");
  ObjectiveOptions out;
#define SDPO_READ(Type, field, name, value) out.field = option<Type>(given.field, "options." #field);
  SDPO_OPTIONS(SDPO_READ)
#undef SDPO_READ
  return out;
}

template <class View, class Given>
View view(const Given& given, int64_t rows, int64_t size, const char* what) {
  View out;
  if (given.data == nullptr) return out;
  out.data = given.data;
  out.row_stride = given.row_stride;
  out.dtype = dtype(given.dtype, what);
  check_count(given.row_stride, what);
  if (rows > 1 && given.row_stride > (kLargest - size) / rows) {
    SDPO_REFUSE("Expected %s to fit into memory, received a larger stride", what);
  }
  return out;
}

Branch branch(const sdpo_branch& given, const sdpo_problem& problem, int passes, bool is_chosen) {
  const auto name = [&](const char* chosen, const char* rejected) { return is_chosen ? chosen : rejected; };
  Branch out;
  if ((passes & (Pass::moments | Pass::gradients)) == 0) return out;
  out.policy = tensor_view(given.policy, problem.rows, problem.size, name("chosen.policy", "rejected.policy"));
  out.reference =
      tensor_view(given.reference, problem.rows, problem.size, name("chosen.reference", "rejected.reference"));
  out.target = tensor_view(given.target, problem.rows, problem.size, name("chosen.target", "rejected.target"));
  if ((passes & Pass::gradients) != 0) {
    out.gradient =
        output_view(given.gradient, problem.rows, problem.size, name("chosen.gradient", "rejected.gradient"));
  }
  if (problem.rows > 0 && problem.size > 0) {
    if (out.policy.data == nullptr) {
      SDPO_REFUSE("Expected %s to be given, received NULL", name("chosen.policy", "rejected.policy"));
    }
    if (out.target.data == nullptr) {
      SDPO_REFUSE("Expected %s to be given, received NULL", name("chosen.target", "rejected.target"));
    }
    if (out.gradient.data != nullptr && problem.rows > 1 && out.gradient.row_stride < problem.size) {
      SDPO_REFUSE("Expected the rows of %s not to overlap, received a row stride below size",
                  name("chosen.gradient", "rejected.gradient"));
    }
  }
  return out;
}

RowColumns read_columns(const sdpo_problem& p) {
  RowColumns out;
  if (p.column_count < 0 || (p.column_count > 0 && p.columns == nullptr)) {
    SDPO_REFUSE("Expected problem.columns to have column_count entries, received %d and %s", p.column_count,
                p.columns == nullptr ? "NULL" : "an array");
  }
  for (int field = 0; field < p.column_count; ++field) {
    const sdpo_column& given = p.columns[field];
    if (field >= RowInput::count) {
      if (given.data == nullptr && given.value == 0) continue;
      SDPO_REFUSE("Expected problem.columns to have the %d row inputs that libsdpo " SDPO_VERSION
                  " knows, received one more",
                  RowInput::count);
    }
    RowColumn& column = out.fields[field];
    column.value = given.value;
    if (given.data == nullptr) continue;
    column.data = given.data;
    column.dtype = dtype(given.dtype, "a column's dtype");
    if (column.dtype != DType::float64 && column.dtype != DType::float32) {
      SDPO_REFUSE("Expected column %s to be float64 or float32, received %s", kRowInputNames[field],
                  kDTypeNames[static_cast<int>(column.dtype)]);
    }
    column.on_host = enumerator<Location::Kind>(given.location, "a column's location") == Location::host;
    if (!column.on_host && p.scalars.kind == SDPO_HOST) {
      SDPO_REFUSE("Expected column %s to be on the host, as the scalars, received one of a device",
                  kRowInputNames[field]);
    }
  }
  check_count(p.omega_count, "problem.omega_count");
  out.omega_table = p.omega_table;
  out.omega_count = p.omega_count;
  return out;
}

}  // namespace

// ---- Defaults

sdpo_options default_options() {
  sdpo_options out;
  std::memset(&out, 0, sizeof out);
  const ObjectiveOptions options;
#define SDPO_DEFAULT(Type, field, name, value) out.field = static_cast<decltype(out.field)>(options.field);
  SDPO_OPTIONS(SDPO_DEFAULT)
#undef SDPO_DEFAULT
  return out;
}

sdpo_problem default_problem() {
  sdpo_problem out;
  std::memset(&out, 0, sizeof out);
  out.gradient_scale = 1;
  return out;
}

sdpo_column default_column(int field) {
  sdpo_column out;
  std::memset(&out, 0, sizeof out);
  if (field < RowInput::count) out.value = kRowInputDefaults[field];
  return out;
}

template <class T>
sdpo_status initialise(T* out, const T& defaults, size_t size, const char* what) {
  if (out == nullptr) SDPO_REFUSE("Expected %s to be a pointer, received NULL", what);
  if (size < sizeof(size_t) || size > 65536)
    SDPO_REFUSE("Expected struct_size to be sizeof(*%s), received %zu", what, size);
  std::memset(out, 0, size);
  std::memcpy(out, &defaults, size < sizeof(T) ? size : sizeof(T));
  out->struct_size = size;
  return SDPO_OK;
}
template sdpo_status initialise(sdpo_options*, const sdpo_options&, size_t, const char*);
template sdpo_status initialise(sdpo_problem*, const sdpo_problem&, size_t, const char*);

// ---- Fields

DType dtype(int32_t value, const char* what) {
  if (value < 0 || value >= kDTypeCount) {
    SDPO_REFUSE("Expected %s to be a position in a list of %d names, received %d", what, kDTypeCount, value);
  }
  return static_cast<DType>(value);
}

Location location(const sdpo_location& given, const char* what) {
  Location out;
  out.kind = enumerator<Location::Kind>(given.kind, what);
  out.ordinal = given.ordinal;
  if (given.ordinal < 0) SDPO_REFUSE("Expected the ordinal of %s to be >= 0, received %d", what, given.ordinal);
  return out;
}

void check_count(int64_t value, const char* what) {
  if (value < 0 || value > kLargest) {
    SDPO_REFUSE("Expected %s to be in [0, 2^56], received %lld", what, static_cast<long long>(value));
  }
}

void check_extent(int64_t rows, const char* rows_name, int64_t size, const char* size_name) {
  check_count(rows, rows_name);
  check_count(size, size_name);
  if (rows > 0 && size > kLargest / rows) SDPO_REFUSE("Expected rows * size to fit into memory, received more");
}

int thread_count(int32_t threads, const Location& where) {
  if (threads < 0 || threads > 4096) SDPO_REFUSE("Expected threads to be in [0, 4096], received %d", threads);
  if (threads == 0 && where.kind == Location::host && !cpu_default_threads().problem.empty()) {
    SDPO_REFUSE("%s", cpu_default_threads().problem.c_str());
  }
  return threads;
}

const Backend& backend_of(const Location& where) {
  const Backend* const backend = backend_for(where.kind);
  if (backend == nullptr) {
    throw Refused{fail(SDPO_DEVICE,
                       "Expected a library with a CUDA backend for memory on cuda:%d, received libsdpo " SDPO_VERSION
                       ", which was built without CUDA",
                       where.ordinal)};
  }
  return *backend;
}

TensorView tensor_view(const sdpo_tensor& given, int64_t rows, int64_t size, const char* what) {
  return view<TensorView>(given, rows, size, what);
}

void check_aligned(const void* data, size_t bytes, const char* what) {
  if (reinterpret_cast<uintptr_t>(data) % bytes == 0) return;
  SDPO_REFUSE("Expected %s to be aligned to its elements of %zu bytes, received %p", what, bytes, data);
}

MutableTensorView output_view(const sdpo_output& given, int64_t rows, int64_t size, const char* what) {
  const MutableTensorView out = view<MutableTensorView>(given, rows, size, what);
  check_aligned(out.data, dtype_size(out.dtype), what);
  return out;
}

// ---- The problem

Problem read_problem(const sdpo_problem* given, int passes) {
  const sdpo_problem p = known_part(given, default_problem(), "problem");
  check_extent(p.rows, "problem.rows", p.size, "problem.size");
  Problem out;
  out.passes = passes | (p.cross != 0 && (passes & Pass::moments) != 0 ? Pass::cross : 0);
  out.rows = p.rows;
  out.size = p.size;
  out.chosen = branch(p.chosen, p, passes, true);
  out.rejected = branch(p.rejected, p, passes, false);
  if ((passes & (Pass::moments | Pass::gradients)) != 0) {
    out.element_weights = tensor_view(p.element_weights, p.rows, p.size, "problem.element_weights");
    out.rejected_element_weights =
        tensor_view(p.rejected_element_weights, p.rows, p.size, "problem.rejected_element_weights");
    if (out.rejected_element_weights.data != nullptr && out.element_weights.data == nullptr) {
      SDPO_REFUSE("Expected problem.element_weights to be given beside rejected_element_weights, received NULL");
    }
  }
  out.tensors = location(p.tensors, "problem.tensors");
  out.scalars = location(p.scalars, "problem.scalars");
  if (out.scalars.kind != Location::host &&
      (out.scalars.kind != out.tensors.kind || out.scalars.ordinal != out.tensors.ordinal)) {
    SDPO_REFUSE("Expected scalars on the host or where the tensors are, received another device");
  }
  if (p.rows > 0 && p.row_outputs == nullptr) SDPO_REFUSE("Expected row_outputs to be given, received NULL");
  out.columns = read_columns(p);
  if ((passes & Pass::objective) != 0) {
    if (p.metrics == nullptr) SDPO_REFUSE("Expected metrics to be given, received NULL");
    out.options = read_options(p.options);
    if (out.options.safeguard >= 0 && (passes & Pass::moments) != 0) out.passes |= Pass::cross;
  } else if (p.options != nullptr && (passes & Pass::moments) != 0) {
    out.options = read_options(p.options);  // what a value that is not finite does
  }
  if (out.rejected_element_weights.data != nullptr && (out.passes & Pass::cross) != 0) {
    SDPO_REFUSE(
        "Expected rejected_element_weights not to be given with a safeguard or cross, since the mean of d_c d_r pairs the "
        "elements of both branches, received both");
  }
  out.row_outputs = p.row_outputs;
  out.metrics = p.metrics;
  out.denominator = p.denominator == 0 ? static_cast<double>(p.rows) : p.denominator;
  out.gradient_scale = p.gradient_scale;
  out.threads = thread_count(p.threads, out.tensors);
  out.stream = p.stream;
  return out;
}

}  // namespace sdpo
