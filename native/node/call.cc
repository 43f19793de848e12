// Reads a header, lists and operands into a Problem, checking lengths and types so that no call can leave its arrays.
#include "call.h"

#include <cstring>

namespace sdpo {
namespace {

// An address of a device that was written into the header as its 64 bits.
void* address_bits(Napi::Env env, double number, size_t alignment) {
  uint64_t bits;
  std::memcpy(&bits, &number, sizeof bits);
  if (bits % alignment != 0) fail(env, "an address is not aligned to its dtype");
  return reinterpret_cast<void*>(static_cast<uintptr_t>(bits));
}

ObjectiveOptions read_options(Napi::Env env, const double* numbers) {
  ObjectiveOptions out;
  int next = 0;
  bool known = true;
#define SDPO_READ(Type, field, name, value, range) known = read_option(numbers[next++], &out.field) && known;
  SDPO_OPTIONS(SDPO_READ)
#undef SDPO_READ
  if (!known) fail(env, "an enumerator is out of range");
  return out;
}

RowColumns read_columns(Napi::Env env, const double* header, const ArrayMemory& lists, int64_t rows, bool on_device) {
  RowColumns out;
  const double* sources = header + HeaderPart::sources;
  const double* numbers = header + HeaderPart::numbers;
  for (int field = 0; field < RowInput::count; ++field) {
    RowColumn& column = out.fields[field];
    const auto source = static_cast<RowSource>(position(env, sources[field], NamesOf<RowSource>::count));
    switch (source) {
      case RowSource::constant:
        column.value = numbers[field];
        break;
      case RowSource::list: {
        const int64_t first = whole(env, numbers[field]);
        if (lists.type != napi_float64_array ||
            static_cast<double>(first) + static_cast<double>(rows) > static_cast<double>(lists.length)) {
          fail(env, "the lists of a call are missing or too short");
        }
        // Without rows there may be no memory, and no list is read.
        column.data = rows > 0 ? static_cast<const double*>(lists.data) + first : nullptr;
        break;
      }
      case RowSource::float64:
      case RowSource::float32:
        if (!on_device) fail(env, "numbers per row are on a device and the results are not");
        column.dtype = source == RowSource::float64 ? DType::float64 : DType::float32;
        column.on_host = false;
        column.data = address_bits(env, numbers[field], dtype_size(column.dtype));
        if (column.data == nullptr && rows > 0) fail(env, "an address is null");
        break;
    }
  }
  out.omega_table = static_cast<const double*>(address_bits(env, header[Header::omegaTable], sizeof(double)));
  if (out.omega_table != nullptr && !on_device) fail(env, "a table is on a device and the results are not");
  out.omega_count = whole(env, header[Header::omegaCount]);
  return out;
}

double* float64_address(const Napi::Value& value) {
  return static_cast<double*>(aligned_address(value, DType::float64, false));
}

}  // namespace

Problem read_problem(const Napi::CallbackInfo& info, double** failure) {
  const Napi::Env env = info.Env();
  const double* header = float64_array(info[kHeaderArgument], HeaderPart::count);

  Problem problem;
  problem.passes = static_cast<int>(whole(env, header[Header::passes]) & 15);
  problem.rows = whole(env, header[Header::rows]);
  problem.size = whole(env, header[Header::size]);
  problem.denominator = header[Header::denominator];
  problem.gradient_scale = header[Header::gradientScale];
  problem.tensors = location(env, header[Header::device]);
  problem.threads = thread_count(env, header[Header::threads], problem.tensors);
  problem.stream = address(info[kStream]);
  problem.options = read_options(env, header + HeaderPart::options);

  const bool on_device = info[kRowOutputs].IsBigInt();
  if (on_device) {
    if (problem.tensors.kind == Location::host) fail(env, "results are on a device and tensors are not");
    problem.scalars = problem.tensors;
    problem.row_outputs = float64_address(info[kRowOutputs]);
    problem.metrics = float64_address(info[kMetrics]);
    *failure = nullptr;
  } else {
    problem.row_outputs = float64_array(info[kRowOutputs], static_cast<double>(problem.rows) * RowOutput::count);
    problem.metrics = float64_array(info[kMetrics], kMetricsLength);
    *failure = problem.metrics + Metric::count;
  }
  problem.columns = read_columns(env, header, array_memory(info[kLists]), problem.rows, on_device);

  const auto read = [&](auto& view, int operand) {
    const Napi::Value value = info[kFirstOperand + static_cast<size_t>(operand)];
    if (value.IsNull() || value.IsUndefined()) return;
    view.dtype = dtype(env, header[HeaderPart::dtypes + operand]);
    view.row_stride = whole(env, header[HeaderPart::strides + operand]);
    view.data = tensor_memory(value, view.dtype, problem.rows, problem.size, view.row_stride, problem.tensors);
  };
  read(problem.chosen.policy, Operand::policyChosen);
  read(problem.chosen.reference, Operand::referenceChosen);
  read(problem.chosen.target, Operand::targetChosen);
  read(problem.chosen.gradient, Operand::gradientChosen);
  read(problem.rejected.policy, Operand::policyRejected);
  read(problem.rejected.reference, Operand::referenceRejected);
  read(problem.rejected.target, Operand::targetRejected);
  read(problem.rejected.gradient, Operand::gradientRejected);
  read(problem.element_weights, Operand::elementWeights);
  read(problem.rejected_element_weights, Operand::elementWeightsRejected);
  for (const Branch* branch : {&problem.chosen, &problem.rejected}) {
    const bool reads = (problem.passes & (Pass::moments | Pass::gradients)) != 0;
    if (reads && (branch->policy.data == nullptr || branch->target.data == nullptr)) {
      fail(env, "policy or target is missing");
    }
  }

  const ArrayMemory abort = array_memory(info[kAbort]);
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
