// The functions of the C interface (sdpo.h).
#include <algorithm>
#include <cmath>
#include <cstring>
#include <iterator>
#include <vector>

#include "../core/metrics.h"
#include "read.h"

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

sdpo_status finish(const Location& where, Status status, const Failure& failure, sdpo_failure* out) {
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
      if (failure.tensor == FailureTensor::batch) {
        return fail(SDPO_NON_FINITE,
                    "Expected only finite values in the loss of the batch, received rows whose sum, divided by the "
                    "denominator, overflows");
      }
      if (failure.tensor == FailureTensor::gradient) {
        return fail(
            SDPO_NON_FINITE,
            "Expected only finite values in the gradient of row %lld of %s, received a value beyond the range of "
            "its dtype at element %lld",
            row, branch, static_cast<long long>(failure.element));
      }
      if (failure.tensor == FailureTensor::referenceError) {
        return fail(
            SDPO_NON_FINITE,
            "Expected the row input referenceError of row %lld (%s) to be finite, received a number that is not", row,
            branch);
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
  const DeviceBackend* const device = backend_of(where).device;
  return fail(SDPO_DEVICE, "%s", device == nullptr ? "The device failed" : device->last_error().message().c_str());
}

sdpo_status evaluate(const sdpo_problem* given, sdpo_failure* failure_out, int passes) {
  return guarded([&] {
    const Problem problem = read_problem(given, passes);
    Failure failure;
    const Status status = backend_of(problem.tensors).evaluate(problem, &failure);
    return finish(problem.tensors, status, failure, failure_out);
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
    SDPO_LIST("timestepWeightings", kTimestepWeightingNames),
    SDPO_LIST("logRatioReductions", kLogRatioReductionNames),
    SDPO_LIST("scopes", kScopeNames),
    SDPO_LIST("safeguardScopes", kSafeguardScopeNames),
    SDPO_LIST("nonFinite", kNonFiniteNames),
    SDPO_LIST("options", kOptionNames),
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

NoiseProblem noise_problem(uint64_t seed, uint64_t offset, int64_t count, void* out, size_t bytes,
                           const sdpo_location& where, void* stream, int32_t threads) {
  check_count(count, "count");
  // The end of the words is a number of 64 bits as well.
  if (offset > uint64_t{1} << 63) SDPO_REFUSE("Expected offset to be at most 2^63, received more");
  if (out == nullptr && count > 0) SDPO_REFUSE("Expected out to be given, received NULL");
  check_aligned(out, bytes, "out");
  NoiseProblem problem;
  problem.seed = seed;
  problem.offset = offset;
  problem.count = count;
  problem.out = out;
  problem.location = location(where, "location");
  problem.threads = thread_count(threads, problem.location);
  problem.stream = stream;
  return problem;
}

}  // namespace
}  // namespace sdpo

using namespace sdpo;

extern "C" {

const char* sdpo_version(void) { return SDPO_VERSION; }

int sdpo_abi_version(void) { return SDPO_ABI_VERSION; }

int sdpo_has_cuda(void) { return backend_for(Location::cuda) != nullptr ? 1 : 0; }

const char* sdpo_instruction_set(void) { return cpu_instruction_set(); }

int sdpo_default_threads(void) {
  int count = 0;
  static_cast<void>(guarded([&] {
    const ThreadSetting& setting = cpu_default_threads();
    if (!setting.problem.empty()) SDPO_REFUSE("%s", setting.problem.c_str());
    count = setting.count;
    return SDPO_OK;
  }));
  return count;
}

const char* sdpo_last_error(void) { return failure_text(); }

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

int sdpo_count(const char* list) {
  const List* found = find_list(list);
  return found != nullptr ? found->count : -1;
}

sdpo_status sdpo_options_init(sdpo_options* options, size_t struct_size) {
  return guarded([&] { return initialise(options, default_options(), struct_size, "options"); });
}

sdpo_status sdpo_problem_init(sdpo_problem* problem, size_t struct_size) {
  return guarded([&] { return initialise(problem, default_problem(), struct_size, "problem"); });
}

sdpo_status sdpo_columns_init(sdpo_column* columns, int32_t count) {
  return guarded([&] {
    if (columns == nullptr || count < 0) SDPO_REFUSE("Expected columns to have count entries, received %d", count);
    for (int field = 0; field < count; ++field) columns[field] = default_column(field);
    return SDPO_OK;
  });
}

sdpo_status sdpo_evaluate(const sdpo_problem* problem, sdpo_failure* failure) {
  return evaluate(problem, failure, Pass::moments | Pass::objective | Pass::gradients);
}

sdpo_status sdpo_reserve(const sdpo_problem* problem) {
  return guarded([&] {
    const Problem whole = read_problem(problem, Pass::moments | Pass::objective | Pass::gradients);
    return finish(whole.tensors, backend_of(whole.tensors).reserve(whole), Failure(), nullptr);
  });
}

sdpo_status sdpo_moments(const sdpo_problem* problem, sdpo_failure* failure) {
  return evaluate(problem, failure, Pass::moments);
}

sdpo_status sdpo_combine_moments(int64_t rows, int32_t count, const double* const* parts, double* row_outputs) {
  return guarded([&] {
    check_count(rows, "rows");
    if (count < 1) SDPO_REFUSE("Expected count to be at least 1, received %d", count);
    if (parts == nullptr || row_outputs == nullptr)
      SDPO_REFUSE("Expected parts and row_outputs to be given, received NULL");
    for (int32_t k = 0; k < count; ++k) {
      if (parts[k] == nullptr) SDPO_REFUSE("Expected parts[%d] to be given, received NULL", k);
    }
    for (int64_t row = 0; row < rows; ++row) combine_moments(rows, row, count, parts, row_outputs);
    return SDPO_OK;
  });
}

sdpo_status sdpo_objective(const sdpo_problem* problem, sdpo_failure* failure) {
  return evaluate(problem, failure, Pass::objective);
}

sdpo_status sdpo_gradients(const sdpo_problem* problem, sdpo_failure* failure) {
  return evaluate(problem, failure, Pass::gradients);
}

sdpo_status sdpo_combine(int64_t rows, int64_t size, const double* a, const sdpo_tensor* x, const double* b,
                         const sdpo_tensor* y, const sdpo_output* out, sdpo_location where, void* stream,
                         int32_t threads) {
  return guarded([&] {
    check_extent(rows, "rows", size, "size");
    if (x == nullptr || y == nullptr || out == nullptr)
      SDPO_REFUSE("Expected x, y and out to be pointers, received NULL");
    CombineProblem problem;
    problem.rows = rows;
    problem.size = size;
    problem.a = a;
    problem.b = b;
    problem.x = tensor_view(*x, rows, size, "x");
    problem.y = tensor_view(*y, rows, size, "y");
    problem.out = output_view(*out, rows, size, "out");
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
    problem.threads = thread_count(threads, problem.location);
    problem.stream = stream;
    return finish(problem.location, backend_of(problem.location).combine(problem), Failure(), nullptr);
  });
}

sdpo_status sdpo_noise(uint64_t seed, uint64_t offset, int64_t count, void* out, int32_t dtype, sdpo_location where,
                       void* stream, int32_t threads) {
  return guarded([&] {
    const DType type = sdpo::dtype(dtype, "dtype");
    NoiseProblem problem = noise_problem(seed, offset, count, out, dtype_size(type), where, stream, threads);
    problem.dtype = type;
    return finish(problem.location, backend_of(problem.location).noise(problem), Failure(), nullptr);
  });
}

sdpo_status sdpo_random_bits(uint64_t seed, uint64_t offset, int64_t count, uint32_t* out, sdpo_location where,
                             void* stream, int32_t threads) {
  return guarded([&] {
    NoiseProblem problem = noise_problem(seed, offset, count, out, sizeof *out, where, stream, threads);
    problem.words = true;
    return finish(problem.location, backend_of(problem.location).noise(problem), Failure(), nullptr);
  });
}

}  // extern "C"
