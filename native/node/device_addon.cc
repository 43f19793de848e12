// The exports that concern devices: the device list, owners of memory and streams, copies, and how failures become
// errors.
#include "device_addon.h"

#include <string>

#include "../core/backends.h"
#include "transfer.h"

#if defined(SDPO_WITH_CUDA)
#include "../cuda/device.h"
#endif

namespace sdpo {
namespace {

#if defined(SDPO_WITH_CUDA)

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

// What an environment keeps: how its errors are made, and its evaluations under way.
struct Environment {
  explicit Environment(Napi::Env env) : calls(make_async_calls(env)) {}
  ~Environment() { destroy(calls); }
  Environment(const Environment&) = delete;
  Environment& operator=(const Environment&) = delete;

  Napi::FunctionReference make_error;
  AsyncCalls* const calls;
};

// ---- Owners

// Memory or a stream of a device, freed by an explicit call or by the garbage collector, whichever comes first.
struct Owned {
  enum Kind { memory, stream } kind;
  int device;
  void* handle;
  int64_t bytes;
};

constexpr napi_type_tag kOwnedTag = {0x5d70cafe01b44e6aULL, 0x93f8a1d27c0e55b1ULL};

// Gives back what is owned. It never throws: it runs in finalizers, and what fails here is a device whose context is
// lost and has nothing to give back any more; later calls report that.
void give_back(napi_env env, Owned* owned) noexcept {
  if (owned->handle == nullptr) return;
  try {
    if (owned->kind == Owned::memory) {
      static_cast<void>(cuda::release(owned->device, owned->handle));
    } else {
      static_cast<void>(cuda::destroy_stream(owned->device, owned->handle));
    }
  } catch (...) {
  }
  owned->handle = nullptr;
  int64_t total = 0;
  if (owned->bytes > 0) napi_adjust_external_memory(env, -owned->bytes, &total);
}

Napi::Value owner(Napi::Env env, Owned::Kind kind, int device, void* handle, int64_t bytes) {
  auto* const owned = new Owned{kind, device, handle, 0};
  const auto finalize = [](Napi::Env finalizing, Owned* data) {
    give_back(finalizing, data);
    delete data;
  };
  Napi::External<Owned> external;
  try {
    external = Napi::External<Owned>::New(env, owned, finalize);
  } catch (const Napi::Error&) {
    give_back(env, owned);
    delete owned;
    throw;
  }
  external.TypeTag(&kOwnedTag);
  // A garbage collector that sees a few bytes only would let gigabytes of device memory pile up.
  if (bytes > 0) Napi::MemoryManagement::AdjustExternalMemory(env, bytes);
  owned->bytes = bytes;
  return external;
}

Owned& owned_at(const Napi::CallbackInfo& info, size_t index) {
  if (!info[index].IsExternal()) fail(info.Env(), "expected the owner of memory or of a stream");
  const auto external = info[index].As<Napi::External<Owned>>();
  if (!external.CheckTypeTag(&kOwnedTag)) fail(info.Env(), "expected the owner of memory or of a stream");
  return *external.Data();
}

// ---- Arguments

// A device that is not the host.
int ordinal_at(const Napi::CallbackInfo& info, size_t index) {
  const Location where = location(info.Env(), info[index].As<Napi::Number>().DoubleValue());
  if (where.kind == Location::host) fail(info.Env(), "expected a device");
  return where.ordinal;
}

size_t size_at(const Napi::CallbackInfo& info, size_t index) {
  const double value = info[index].As<Napi::Number>().DoubleValue();
  if (!(value >= 0 && value <= 9007199254740991.0)) fail(info.Env(), "a size is out of range");
  return static_cast<size_t>(value);
}

void check(Napi::Env env, int device, Status status) {
  Location where;
  where.kind = Location::cuda;
  where.ordinal = device;
  check_device(env, where, status);
}

// ---- Memory

// deviceAllocate(device, bytes, zero): the owner of new memory.
Napi::Value allocate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int device = ordinal_at(info, 0);
  const size_t bytes = size_at(info, 1);
  void* memory = nullptr;
  check(env, device, cuda::allocate(device, bytes, &memory));
  if (info[2].As<Napi::Boolean>() && bytes > 0) {
    Status status = cuda::fill_zero(device, memory, bytes, nullptr);
    // Waited for, so that the zeros are there for every stream.
    if (status == Status::ok) status = cuda::synchronize(device, nullptr);
    if (status != Status::ok) {
      const cuda::Error error = cuda::last_error();
      static_cast<void>(cuda::release(device, memory));
      throw Napi::Error(env, device_error(env, status, error));
    }
  }
  return owner(env, Owned::memory, device, memory, static_cast<int64_t>(bytes));
}

// ownedHandle(owner): the address of memory, or the handle of a stream.
Napi::Value owned_handle(const Napi::CallbackInfo& info) {
  return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(reinterpret_cast<uintptr_t>(owned_at(info, 0).handle)));
}

// ownedFree(owner): frees now what the garbage collector would free later; again is harmless.
Napi::Value owned_free(const Napi::CallbackInfo& info) {
  give_back(info.Env(), &owned_at(info, 0));
  return info.Env().Undefined();
}

// deviceCopy(device, rows, width, to, toStride, from, fromStride, stream): typed arrays are host memory, bigints device
// memory.
Napi::Value copy(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Transfer t;
  t.device = ordinal_at(info, 0);
  t.rows = size_at(info, 1);
  t.width = size_at(info, 2);
  t.to_stride = size_at(info, 4);
  t.from_stride = size_at(info, 6);
  const auto place = [&](size_t index, size_t stride) {
    const bool empty = t.rows == 0 || t.width == 0;
    if (info[index].IsBigInt()) {
      void* const data = address(info[index]);
      if (data == nullptr && !empty) fail(env, "an address is null");
      return static_cast<char*>(data);
    }
    const ArrayMemory memory = array_memory(info, index);
    size_t bytes_each = 0;
    for (int type = 0; type < kDTypeCount; ++type) {
      if (holds(memory.type, static_cast<DType>(type))) bytes_each = kDTypeSizes[type];
    }
    const double needed =
        empty ? 0 : static_cast<double>(t.rows - 1) * static_cast<double>(stride) + static_cast<double>(t.width);
    if (!memory.present || bytes_each == 0 ||
        needed > static_cast<double>(memory.length) * static_cast<double>(bytes_each)) {
      fail(env, "a host array has the wrong type or is too short (detached?)");
    }
    return static_cast<char*>(memory.data);
  };
  t.to = place(3, t.to_stride);
  t.from = place(5, t.from_stride);
  const bool from_device = info[5].IsBigInt(), to_device = info[3].IsBigInt();
  if (!from_device && !to_device) fail(env, "neither side of a copy is on a device");
  t.kind = from_device ? to_device ? Transfer::on_device : Transfer::download : Transfer::upload;
  t.stream = address(info[7]);
  cuda::Error error;
  const Status status = transfer(t, &error);
  if (status != Status::ok) throw Napi::Error(env, device_error(env, status, error));
  return env.Undefined();
}

// ---- Streams

// streamCreate(device): the owner of a new stream.
Napi::Value stream_create(const Napi::CallbackInfo& info) {
  const int device = ordinal_at(info, 0);
  void* stream = nullptr;
  check(info.Env(), device, cuda::create_stream(device, &stream));
  return owner(info.Env(), Owned::stream, device, stream, 0);
}

// streamRelease(device, stream): waits for a stream that somebody else owns and frees what was cached for it. Like
// every way of giving something back it never throws; a device that has failed says so at its next call.
Napi::Value stream_release(const Napi::CallbackInfo& info) {
  const int device = ordinal_at(info, 0);
  static_cast<void>(cuda::release_workspace(device, address(info[1])));
  return info.Env().Undefined();
}

// streamSynchronize(device, stream)
Napi::Value stream_synchronize(const Napi::CallbackInfo& info) {
  const int device = ordinal_at(info, 0);
  check(info.Env(), device, cuda::synchronize(device, address(info[1])));
  return info.Env().Undefined();
}

// streamWait(device, stream, other): what is put on `stream` from now on starts after what is on `other` now.
Napi::Value stream_wait(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const int device = ordinal_at(info, 0);
  void *const stream = address(info[1]), *const other = address(info[2]);
  void* event = nullptr;
  check(env, device, cuda::create_event(device, &event));
  Status status = cuda::record_event(device, event, other);
  if (status == Status::ok) status = cuda::wait_event(device, stream, event);
  const cuda::Error error = cuda::last_error();
  // The device keeps what it needs of an event until the wait is over.
  static_cast<void>(cuda::destroy_event(device, event));
  if (status != Status::ok) throw Napi::Error(env, device_error(env, status, error));
  return env.Undefined();
}

// deviceRowInputs(device, rows, given, sources, addresses, out, stream). sources: scale, factor, check and dtype of
// each field, then the dtypes of omega of both branches and the size of the table; addresses: the list of each field,
// omega of both branches, the table.
Napi::Value device_row_inputs(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  constexpr size_t kFields = RowInput::count, kEach = 4;
  RowInputsProblem problem;
  problem.location.kind = Location::cuda;
  problem.location.ordinal = ordinal_at(info, 0);
  problem.rows = static_cast<int64_t>(size_at(info, 1));
  const ArrayMemory given = array_memory(info, 2), sources = array_memory(info, 3), addresses = array_memory(info, 4);
  if (given.type != napi_float64_array ||
      static_cast<double>(given.length) < static_cast<double>(problem.rows) * kFields ||
      sources.type != napi_float64_array || sources.length < kEach * kFields + 3 ||
      addresses.type != napi_biguint64_array || addresses.length < kFields + 3) {
    fail(env, "the sources of row inputs are missing or too short");
  }
  problem.given = static_cast<const double*>(given.data);
  const double* const source = static_cast<const double*>(sources.data);
  const uint64_t* const address_of = static_cast<const uint64_t*>(addresses.data);
  const auto choice = [&](double value, size_t count) {
    if (!(value >= 0 && value < static_cast<double>(count))) fail(env, "an enumerator is out of range");
    return static_cast<uint8_t>(value);
  };
  const auto list = [&](size_t index, double number) {
    const DType dtype = static_cast<DType>(choice(number, kDTypeCount));
    if (dtype != DType::float64 && dtype != DType::float32)
      fail(env, "a list of a device is neither float64 nor float32");
    if (address_of[index] % dtype_size(dtype) != 0) fail(env, "an address is not aligned to its dtype");
    return RowList{reinterpret_cast<const void*>(static_cast<uintptr_t>(address_of[index])), dtype};
  };
  RowSources& out = problem.sources;
  for (size_t branch = 0; branch < 2; ++branch)
    out.omega[branch] = list(kFields + branch, source[kEach * kFields + branch]);
  for (size_t f = 0; f < kFields; ++f) {
    RowField& field = out.fields[f];
    field.scale = source[kEach * f];
    field.factor = static_cast<RowFactor>(choice(source[kEach * f + 1], std::size(kRowFactorNames)));
    field.check = static_cast<RowCheck>(choice(source[kEach * f + 2], std::size(kRowCheckNames)));
    field.list = list(f, source[kEach * f + 3]);
    if (field.factor != RowFactor::none && out.omega[f % 2].data == nullptr)
      fail(env, "a field has a factor and its branch has no omega");
  }
  out.table = static_cast<const double*>(list(kFields + 2, 0).data);
  out.table_size = static_cast<int64_t>(source[kEach * kFields + 2]);
  problem.out = static_cast<double*>(address(info[5]));
  if (problem.out == nullptr && problem.rows > 0) fail(env, "an address is null");
  problem.stream = address(info[6]);
  check(env, problem.location.ordinal, cuda::row_inputs(problem));
  return env.Undefined();
}

// onDeviceError(make): how failures of devices become errors.
Napi::Value on_device_error(const Napi::CallbackInfo& info) {
  info.Env().GetInstanceData<Environment>()->make_error = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

Napi::Object cuda_device(Napi::Env env, int device) {
  const cuda::DeviceInfo found = cuda::device_info(device);
  Napi::Object out = Napi::Object::New(env);
  out.Set("name", "cuda:" + std::to_string(device));
  out.Set("type", "cuda");
  out.Set("model", found.name);
  out.Set("computeCapability", std::to_string(found.computeMajor) + "." + std::to_string(found.computeMinor));
  out.Set("totalMemory", static_cast<double>(found.totalMemory));
  out.Set("multiprocessors", found.multiProcessors);
  out.Set("driverVersion", version(cuda::driver_version()));
  out.Set("runtimeVersion", version(cuda::runtime_version()));
  return out;
}

#endif

// devices(): the CPU, then the CUDA devices that answer.
Napi::Value devices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array out = Napi::Array::New(env);
  Napi::Object cpu = Napi::Object::New(env);
  cpu.Set("name", cpu_backend().name);
  cpu.Set("type", "cpu");
  cpu.Set("threads", cpu_default_threads());
  cpu.Set("instructionSet", cpu_instruction_set());
  out.Set(uint32_t{0}, cpu);
#if defined(SDPO_WITH_CUDA)
  const int count = cuda::device_count();
  for (int device = 0; device < count; ++device) {
    try {
      out.Set(out.Length(), cuda_device(env, device));
    } catch (const std::exception&) {
      // A device that cannot be asked cannot be used either; cuda() tells why.
    }
  }
#endif
  return out;
}

// cuda(): whether this build can use CUDA, and why this machine cannot where it cannot.
Napi::Value cuda_support(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Object out = Napi::Object::New(env);
#if defined(SDPO_WITH_CUDA)
  std::string why;
  const int count = cuda::device_count(&why);
  for (int device = 0; device < count; ++device) {
    try {
      static_cast<void>(cuda::device_info(device));
    } catch (const std::exception& failed) {
      why += (why.empty() ? "" : "; ") + std::string(failed.what());
    }
  }
  const int driver = cuda::driver_version();
  out.Set("built", true);
  out.Set("runtimeVersion", version(cuda::runtime_version()));
  out.Set("driverVersion",
          driver == 0 ? env.Null() : static_cast<Napi::Value>(Napi::String::New(env, version(driver))));
  out.Set("reason", why.empty() ? env.Null() : static_cast<Napi::Value>(Napi::String::New(env, why)));
#else
  out.Set("built", false);
  out.Set("runtimeVersion", env.Null());
  out.Set("driverVersion", env.Null());
  out.Set("reason", "this build of the addon has no CUDA backend");
#endif
  return out;
}

#if !defined(SDPO_WITH_CUDA)

Napi::Value not_built(const Napi::CallbackInfo& info) { fail(info.Env(), "this build has no CUDA backend"); }

// Without devices nothing ever fails that would need an error of its own.
Napi::Value on_device_error(const Napi::CallbackInfo& info) { return info.Env().Undefined(); }

#endif

}  // namespace

#if defined(SDPO_WITH_CUDA)

Napi::Value device_error(Napi::Env env, Status status, const cuda::Error& error) {
  Napi::Object fields = Napi::Object::New(env);
  fields.Set("message", error.message());
  fields.Set("cudaCode", error.name);
  fields.Set("operation", error.operation);
  fields.Set("device", error.device < 0 ? std::string("cpu") : "cuda:" + std::to_string(error.device));
  fields.Set("shapes", error.shapes);
  fields.Set("contextLost", error.context_lost);
  fields.Set("outOfMemory", status == Status::out_of_memory);
  const Environment* const environment = env.GetInstanceData<Environment>();
  if (environment->make_error.IsEmpty()) return Napi::Error::New(env, error.message()).Value();
  return environment->make_error.Call({fields});
}

void check_device(Napi::Env env, const Location& location, Status status) {
  if (location.kind == Location::host || (status != Status::device && status != Status::out_of_memory)) return;
  const cuda::Error error = cuda::last_error();  // making the JavaScript error may call the device again
  throw Napi::Error(env, device_error(env, status, error));
}

AsyncCalls& async_calls(Napi::Env env) { return *env.GetInstanceData<Environment>()->calls; }

#else

void check_device(Napi::Env, const Location&, Status) {}

#endif

void export_device(Napi::Env env, Napi::Object exports) {
#if defined(SDPO_WITH_CUDA)
  env.SetInstanceData(new Environment(env));
  exports.Set("deviceAllocate", Napi::Function::New<allocate>(env, "deviceAllocate"));
  exports.Set("deviceCopy", Napi::Function::New<copy>(env, "deviceCopy"));
  exports.Set("deviceRowInputs", Napi::Function::New<device_row_inputs>(env, "deviceRowInputs"));
  exports.Set("ownedHandle", Napi::Function::New<owned_handle>(env, "ownedHandle"));
  exports.Set("ownedFree", Napi::Function::New<owned_free>(env, "ownedFree"));
  exports.Set("streamCreate", Napi::Function::New<stream_create>(env, "streamCreate"));
  exports.Set("streamRelease", Napi::Function::New<stream_release>(env, "streamRelease"));
  exports.Set("streamSynchronize", Napi::Function::New<stream_synchronize>(env, "streamSynchronize"));
  exports.Set("streamWait", Napi::Function::New<stream_wait>(env, "streamWait"));
#else
  for (const char* name : {"deviceAllocate", "deviceCopy", "deviceRowInputs", "ownedHandle", "ownedFree",
                           "streamCreate", "streamRelease", "streamSynchronize", "streamWait"}) {
    exports.Set(name, Napi::Function::New<not_built>(env, name));
  }
#endif
  exports.Set("onDeviceError", Napi::Function::New<on_device_error>(env, "onDeviceError"));
  exports.Set("devices", Napi::Function::New<devices>(env, "devices"));
  exports.Set("cuda", Napi::Function::New<cuda_support>(env, "cuda"));
}

}  // namespace sdpo
