// The C interface (sdpo.h): checks what could corrupt memory, fills a Problem, and turns every failure into a status
// and a text.
#include <cstdarg>
#include <cstddef>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iterator>
#include <new>

#include "../core/backend.h"
#include "sdpo.h"

#if defined(SDPO_WITH_CUDA)
#include "../cuda/cuda.h"
#endif

#if !defined(SDPO_VERSION)
#error "SDPO_VERSION has to be defined as the version of the package"
#endif

namespace sdpo {

namespace {

#define SDPO_SAME_STATUS(c_name, id) \
  static_assert(static_cast<int>(c_name) == static_cast<int>(Status::id), "sdpo_status has to follow Status")
SDPO_SAME_STATUS(SDPO_OK, ok);
SDPO_SAME_STATUS(SDPO_NON_FINITE, non_finite);
SDPO_SAME_STATUS(SDPO_ELEMENT_WEIGHTS, element_weights);
SDPO_SAME_STATUS(SDPO_ABORTED, aborted);
SDPO_SAME_STATUS(SDPO_OUT_OF_MEMORY, out_of_memory);
SDPO_SAME_STATUS(SDPO_DEVICE, device);
static_assert(std::size(kStatusNames) == 6, "a new Status needs its sdpo_status");
static_assert(SDPO_HOST == static_cast<int>(Location::host) && SDPO_CUDA == static_cast<int>(Location::cuda), "");

constexpr const char* kLocationNames[] = {"host", "cuda"};

// ---- The text of the last failure: a plain array, so that a thread ends without a destructor.

thread_local char g_error[512];

#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
sdpo_status fail(sdpo_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(g_error, sizeof g_error, format, arguments);
  va_end(arguments);
  return status;
}

// Thrown by the checks below and caught by `guarded`, which is the only way out of this file.
struct Refused {
  sdpo_status status;
};

#define SDPO_REFUSE(...) \
  throw Refused { fail(SDPO_INVALID_ARGUMENT, __VA_ARGS__) }

template <class Body>
sdpo_status guarded(const Body& body) noexcept {
  g_error[0] = '\0';
  try {
    return body();
  } catch (const Refused& refused) {
    return refused.status;
  } catch (const std::bad_alloc&) {
    return fail(SDPO_OUT_OF_MEMORY, "Expected enough memory for the scratch space of a call, received none");
  } catch (const std::exception& error) {
    return fail(SDPO_INTERNAL, "%s", error.what());
  } catch (...) {
    return fail(SDPO_INTERNAL, "an unknown exception");
  }
}

// ---- Structs of other versions of the header

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

sdpo_options default_options() {
  sdpo_options out;
  std::memset(&out, 0, sizeof out);
  const ObjectiveOptions options;
  out.objective = static_cast<int32_t>(options.objective);
  out.link = static_cast<int32_t>(options.link);
  out.pair_weight = static_cast<int32_t>(options.pair_weight);
  out.weight_ratio = static_cast<int32_t>(options.weight_ratio);
  out.sft_scope = static_cast<int32_t>(options.sft_scope);
  out.kl_scope = static_cast<int32_t>(options.kl_scope);
  out.non_finite = static_cast<int32_t>(NonFinite::fail);
  out.beta = options.beta;
  out.safeguard = options.safeguard;
  out.dmpo_alpha = options.dmpo_alpha;
  out.mapo_scale = options.mapo_scale;
  out.mapo_steps = options.mapo_steps;
  return out;
}

sdpo_problem default_problem() {
  sdpo_problem out;
  std::memset(&out, 0, sizeof out);
  out.gradient_scale = 1;
  return out;
}

// ---- Fields

template <class Enum, size_t N>
Enum enumerator(int32_t value, const char* const (&)[N], const char* what) {
  if (value < 0 || value >= static_cast<int32_t>(N)) {
    SDPO_REFUSE("Expected %s to be a position in a list of %zu names, received %d", what, N, value);
  }
  return static_cast<Enum>(value);
}

Location location(const sdpo_location& given, const char* what) {
  Location out;
  out.kind = enumerator<Location::Kind>(given.kind, kLocationNames, what);
  out.ordinal = given.ordinal;
  if (given.ordinal < 0) SDPO_REFUSE("Expected the ordinal of %s to be >= 0, received %d", what, given.ordinal);
  return out;
}

// Sizes beyond this cannot be memory, and products of two of them still fit into 128 bits; sums of bytes then cannot
// overflow.
constexpr int64_t kLargest = int64_t{1} << 56;

void check_count(int64_t value, const char* what) {
  if (value < 0 || value > kLargest)
    SDPO_REFUSE("Expected %s to be in [0, 2^56], received %lld", what, static_cast<long long>(value));
}

template <class View, class Given>
View view(const Given& given, int64_t rows, int64_t size, const char* what) {
  View out;
  if (given.data == nullptr) return out;
  out.data = given.data;
  out.row_stride = given.row_stride;
  out.dtype = enumerator<DType>(given.dtype, kDTypeNames, what);
  check_count(given.row_stride, what);
  if (rows > 1 && given.row_stride > (kLargest - size) / rows)
    SDPO_REFUSE("Expected %s to fit into memory, received a larger stride", what);
  return out;
}

int thread_count(int32_t threads) {
  if (threads < 0 || threads > 4096) SDPO_REFUSE("Expected threads to be in [0, 4096], received %d", threads);
  return threads;
}

const Backend& backend_of(const Location& where) {
  if (where.kind == Location::host) return cpu_backend();
#if defined(SDPO_WITH_CUDA)
  return cuda_backend();
#else
  throw Refused{fail(SDPO_DEVICE,
                     "Expected a library with a CUDA backend for memory on cuda:%d, received libsdpo " SDPO_VERSION
                     ", which was built without CUDA",
                     where.ordinal)};
#endif
}

ObjectiveOptions objective_options(const sdpo_options& given) {
  ObjectiveOptions out;
  out.objective = enumerator<Objective>(given.objective, kObjectiveNames, "options.objective");
  out.link = enumerator<Link>(given.link, kLinkNames, "options.link");
  out.pair_weight = enumerator<PairWeight>(given.pair_weight, kPairWeightNames, "options.pair_weight");
  out.weight_ratio = enumerator<WeightRatio>(given.weight_ratio, kWeightRatioNames, "options.weight_ratio");
  out.sft_scope = enumerator<Scope>(given.sft_scope, kScopeNames, "options.sft_scope");
  out.kl_scope = enumerator<Scope>(given.kl_scope, kScopeNames, "options.kl_scope");
  out.weight_gradient = given.weight_gradient != 0;
  out.sum_weight = given.sum_weight != 0;
  out.sum_psi = given.sum_psi != 0;
  out.beta = given.beta;
  out.label_smoothing = given.label_smoothing;
  out.sft_weight = given.sft_weight;
  out.kl_weight = given.kl_weight;
  out.safeguard = given.safeguard;
  out.dmpo_alpha = given.dmpo_alpha;
  out.mapo_scale = given.mapo_scale;
  out.mapo_steps = given.mapo_steps;
  return out;
}

Branch branch(const sdpo_branch& given, const sdpo_problem& problem, int passes, bool is_chosen) {
  const auto name = [&](const char* chosen, const char* rejected) { return is_chosen ? chosen : rejected; };
  Branch out;
  out.policy = view<TensorView>(given.policy, problem.rows, problem.size, name("chosen.policy", "rejected.policy"));
  out.reference =
      view<TensorView>(given.reference, problem.rows, problem.size, name("chosen.reference", "rejected.reference"));
  out.target = view<TensorView>(given.target, problem.rows, problem.size, name("chosen.target", "rejected.target"));
  if ((passes & Pass::gradients) != 0) {
    out.gradient = view<MutableTensorView>(given.gradient, problem.rows, problem.size,
                                           name("chosen.gradient", "rejected.gradient"));
  }
  if (problem.rows > 0 && problem.size > 0) {
    if (out.policy.data == nullptr)
      SDPO_REFUSE("Expected %s to be given, received NULL", name("chosen.policy", "rejected.policy"));
    if (out.target.data == nullptr)
      SDPO_REFUSE("Expected %s to be given, received NULL", name("chosen.target", "rejected.target"));
    if (out.gradient.data != nullptr && problem.rows > 1 && out.gradient.row_stride < problem.size) {
      SDPO_REFUSE("Expected the rows of %s not to overlap, received a row stride below size",
                  name("chosen.gradient", "rejected.gradient"));
    }
  }
  return out;
}

Problem read_problem(const sdpo_problem* given, int passes) {
  const sdpo_problem p = known_part(given, default_problem(), "problem");
  check_count(p.rows, "problem.rows");
  check_count(p.size, "problem.size");
  if (p.rows > 0 && p.size > kLargest / p.rows) SDPO_REFUSE("Expected rows * size to fit into memory, received more");
  Problem out;
  out.passes = passes | (p.cross != 0 && (passes & Pass::moments) != 0 ? Pass::cross : 0);
  out.rows = p.rows;
  out.size = p.size;
  out.chosen = branch(p.chosen, p, passes, true);
  out.rejected = branch(p.rejected, p, passes, false);
  out.element_weights = view<TensorView>(p.element_weights, p.rows, p.size, "problem.element_weights");
  out.tensors = location(p.tensors, "problem.tensors");
  out.scalars = location(p.scalars, "problem.scalars");
  if (out.scalars.kind != Location::host &&
      (out.scalars.kind != out.tensors.kind || out.scalars.ordinal != out.tensors.ordinal)) {
    SDPO_REFUSE("Expected scalars on the host or where the tensors are, received another device");
  }
  if (p.rows > 0 && (p.row_inputs == nullptr || p.row_outputs == nullptr)) {
    SDPO_REFUSE("Expected row_inputs and row_outputs to be given, received NULL");
  }
  if ((passes & Pass::objective) != 0) {
    if (p.metrics == nullptr) SDPO_REFUSE("Expected metrics to be given, received NULL");
    const sdpo_options options = known_part(p.options, default_options(), "options");
    out.options = objective_options(options);
    if (out.options.safeguard >= 0) out.passes |= Pass::cross;
  }
  // The policy on non-finite values belongs to every pass that computes moments.
  if (p.options != nullptr && (passes & Pass::moments) != 0) {
    const sdpo_options options = known_part(p.options, default_options(), "options");
    out.non_finite = enumerator<NonFinite>(options.non_finite, kNonFiniteNames, "options.non_finite");
  }
  out.row_inputs = p.row_inputs;
  out.row_outputs = p.row_outputs;
  out.metrics = p.metrics;
  out.denominator = p.denominator == 0 ? static_cast<double>(p.rows) : p.denominator;
  out.gradient_scale = p.gradient_scale;
  out.threads = thread_count(p.threads);
  out.stream = p.stream;
  return out;
}

sdpo_status finish(Status status, const Failure& failure, sdpo_failure* out) {
  if (out != nullptr) {
    out->row = status == Status::ok ? -1 : failure.row;
    out->element = failure.element;
    out->branch = failure.branch;
    out->tensor = static_cast<int32_t>(failure.tensor);
  }
  const auto row = static_cast<long long>(failure.row);
  switch (status) {
    case Status::ok:
      return SDPO_OK;
    case Status::non_finite: {
      const char* branch = failure.branch == 0 ? "chosen" : "rejected";
      if (failure.tensor == FailureTensor::row) {
        return fail(SDPO_NON_FINITE,
                    "Expected only finite values in the finite tensors of row %lld (%s), received values whose squared "
                    "errors or loss overflow",
                    row, branch);
      }
      return fail(SDPO_NON_FINITE,
                  "Expected only finite values in row %lld of %s.%s, received a non-finite value at element %lld", row,
                  branch, kFailureTensorNames[static_cast<int>(failure.tensor)],
                  static_cast<long long>(failure.element));
    }
    case Status::element_weights:
      return fail(
          SDPO_ELEMENT_WEIGHTS,
          "Expected element_weights to be finite, >= 0 and of positive sum in every row, received weights in row %lld that are not",
          row);
    case Status::aborted:
      return fail(SDPO_ABORTED, "The evaluation was aborted");
    case Status::out_of_memory:
      return fail(SDPO_OUT_OF_MEMORY, "Expected enough memory for the scratch space of a call, received none");
    case Status::device:
      break;
  }
#if defined(SDPO_WITH_CUDA)
  return fail(SDPO_DEVICE, "%s", cuda::last_error().message().c_str());
#else
  return fail(SDPO_DEVICE, "The device failed");
#endif
}

sdpo_status evaluate(const sdpo_problem* given, sdpo_failure* failure_out, int passes) {
  return guarded([&] {
    const Problem problem = read_problem(given, passes);
    Failure failure;
    return finish(backend_of(problem.tensors).evaluate(problem, &failure), failure, failure_out);
  });
}

// ---- Lists of names

struct List {
  const char* name;
  const char* const* names;
  int count;
};

#define SDPO_LIST(name, names) {name, names, static_cast<int>(std::size(names))}
constexpr List kLists[] = {
    SDPO_LIST("dtypes", kDTypeNames),
    SDPO_LIST("objectives", kObjectiveNames),
    SDPO_LIST("links", kLinkNames),
    SDPO_LIST("pairWeights", kPairWeightNames),
    SDPO_LIST("weightRatios", kWeightRatioNames),
    SDPO_LIST("scopes", kScopeNames),
    SDPO_LIST("nonFinite", kNonFiniteNames),
    SDPO_LIST("rowInputs", kRowInputNames),
    SDPO_LIST("rowOutputs", kRowOutputNames),
    SDPO_LIST("metrics", kMetricNames),
    SDPO_LIST("statuses", kStatusNames),
    SDPO_LIST("failureTensors", kFailureTensorNames),
    SDPO_LIST("locations", kLocationNames),
};

const List* find_list(const char* name) {
  for (const List& list : kLists) {
    if (name != nullptr && std::strcmp(list.name, name) == 0) return &list;
  }
  return nullptr;
}

NoiseProblem noise_problem(uint64_t seed, uint64_t offset, int64_t count, void* out, const sdpo_location& where,
                           void* stream, int32_t threads) {
  check_count(count, "count");
  if (out == nullptr && count > 0) SDPO_REFUSE("Expected out to be given, received NULL");
  NoiseProblem problem;
  problem.seed = seed;
  problem.offset = offset;
  problem.count = count;
  problem.out = out;
  problem.location = location(where, "location");
  problem.threads = thread_count(threads);
  problem.stream = stream;
  return problem;
}

}  // namespace
}  // namespace sdpo

using namespace sdpo;

extern "C" {

const char* sdpo_version(void) { return SDPO_VERSION; }

int sdpo_abi_version(void) { return SDPO_ABI_VERSION; }

int sdpo_has_cuda(void) {
#if defined(SDPO_WITH_CUDA)
  return 1;
#else
  return 0;
#endif
}

const char* sdpo_instruction_set(void) { return cpu_instruction_set(); }

int sdpo_default_threads(void) { return cpu_default_threads(); }

const char* sdpo_last_error(void) { return g_error; }

const char* sdpo_name(const char* list, int index) {
  const List* found = find_list(list);
  return found != nullptr && index >= 0 && index < found->count ? found->names[index] : nullptr;
}

int sdpo_index(const char* list, const char* name) {
  const List* found = find_list(list);
  for (int i = 0; found != nullptr && name != nullptr && i < found->count; ++i) {
    if (std::strcmp(found->names[i], name) == 0) return i;
  }
  return -1;
}

sdpo_status sdpo_options_init(sdpo_options* options, size_t struct_size) {
  return guarded([&] { return initialise(options, default_options(), struct_size, "options"); });
}

sdpo_status sdpo_problem_init(sdpo_problem* problem, size_t struct_size) {
  return guarded([&] { return initialise(problem, default_problem(), struct_size, "problem"); });
}

sdpo_status sdpo_evaluate(const sdpo_problem* problem, sdpo_failure* failure) {
  return evaluate(problem, failure, Pass::moments | Pass::objective | Pass::gradients);
}

sdpo_status sdpo_moments(const sdpo_problem* problem, sdpo_failure* failure) {
  return evaluate(problem, failure, Pass::moments);
}

sdpo_status sdpo_objective(const sdpo_problem* problem, sdpo_failure* failure) {
  return evaluate(problem, failure, Pass::moments | Pass::objective);
}

sdpo_status sdpo_gradients(const sdpo_problem* problem, sdpo_failure* failure) {
  return evaluate(problem, failure, Pass::gradients);
}

sdpo_status sdpo_combine(int64_t rows, int64_t size, const double* a, const sdpo_tensor* x, const double* b,
                         const sdpo_tensor* y, const sdpo_output* out, sdpo_location where, void* stream,
                         int32_t threads) {
  return guarded([&] {
    check_count(rows, "rows");
    check_count(size, "size");
    if (rows > 0 && size > kLargest / rows) SDPO_REFUSE("Expected rows * size to fit into memory, received more");
    if (x == nullptr || y == nullptr || out == nullptr)
      SDPO_REFUSE("Expected x, y and out to be pointers, received NULL");
    CombineProblem problem;
    problem.rows = rows;
    problem.size = size;
    problem.a = a;
    problem.b = b;
    problem.x = view<TensorView>(*x, rows, size, "x");
    problem.y = view<TensorView>(*y, rows, size, "y");
    problem.out = view<MutableTensorView>(*out, rows, size, "out");
    if (rows > 0 && size > 0) {
      const bool given = a != nullptr && b != nullptr && problem.x.data != nullptr && problem.y.data != nullptr &&
                         problem.out.data != nullptr;
      if (!given) SDPO_REFUSE("Expected a, b and the data of x, y and out to be given, received NULL");
      if (problem.x.dtype != problem.out.dtype || problem.y.dtype != problem.out.dtype) {
        SDPO_REFUSE("Expected x, y and out to have one dtype, received several");
      }
      if (rows > 1 && problem.out.row_stride < size)
        SDPO_REFUSE("Expected the rows of out not to overlap, received a row stride below size");
    }
    problem.location = location(where, "location");
    problem.threads = thread_count(threads);
    problem.stream = stream;
    return finish(backend_of(problem.location).combine(problem), Failure(), nullptr);
  });
}

sdpo_status sdpo_noise(uint64_t seed, uint64_t offset, int64_t count, void* out, int32_t dtype, sdpo_location where,
                       void* stream, int32_t threads) {
  return guarded([&] {
    NoiseProblem problem = noise_problem(seed, offset, count, out, where, stream, threads);
    problem.dtype = enumerator<DType>(dtype, kDTypeNames, "dtype");
    return finish(backend_of(problem.location).noise(problem), Failure(), nullptr);
  });
}

sdpo_status sdpo_random_bits(uint64_t seed, uint64_t offset, int64_t count, uint32_t* out, sdpo_location where,
                             void* stream, int32_t threads) {
  return guarded([&] {
    NoiseProblem problem = noise_problem(seed, offset, count, out, where, stream, threads);
    problem.words = true;
    return finish(backend_of(problem.location).noise(problem), Failure(), nullptr);
  });
}

}  // extern "C"
