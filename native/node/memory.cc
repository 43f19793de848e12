// Memory, streams and graphs of devices with their owners, copies, and how failures become errors.
#include <string>

#include "../core/transfer.h"
#include "device.h"
#include "exports.h"

namespace sdpo {
namespace {

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

// Memory, a stream or a graph of a device, freed by an explicit call or by the garbage collector, whichever comes
// first.
struct Owned {
  enum Kind { memory, stream, graph } kind;
  Location where;
  void* handle;
  int64_t bytes;
};

constexpr napi_type_tag kOwnedTag = {0x5d70cafe01b44e6aULL, 0x93f8a1d27c0e55b1ULL};

// Gives back what is owned. It never throws: it runs in finalizers, and what fails here is a device whose context is
// lost and has nothing to give back any more; later calls report that.
void give_back(napi_env env, Owned* owned) noexcept {
  if (owned->handle == nullptr) return;
  try {
    const DeviceBackend& device = device_of(owned->where);
    const decltype(device.release) frees[] = {device.release, device.destroy_stream, device.destroy_graph};
    static_cast<void>(frees[owned->kind](owned->where.ordinal, owned->handle));
  } catch (...) {
  }
  owned->handle = nullptr;
  int64_t total = 0;
  if (owned->bytes > 0) napi_adjust_external_memory(env, -owned->bytes, &total);
}

Napi::Value owner(Napi::Env env, Owned::Kind kind, const Location& where, void* handle, int64_t bytes) {
  auto* const owned = new Owned{kind, where, handle, 0};
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
  if (!info[index].IsExternal()) fail(info.Env(), "expected the owner of memory, of a stream or of a graph");
  const auto external = info[index].As<Napi::External<Owned>>();
  if (!external.CheckTypeTag(&kOwnedTag)) fail(info.Env(), "expected the owner of memory, of a stream or of a graph");
  return *external.Data();
}

// The first argument: a device that is not the host.
Location device_at(const Napi::CallbackInfo& info) {
  const Location where = location(info.Env(), info[0].As<Napi::Number>().DoubleValue());
  if (where.kind == Location::host) fail(info.Env(), "expected a device");
  return where;
}

// ---- Memory

// deviceAllocate(device, bytes, zero): the owner of new memory.
Napi::Value allocate(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const Location where = device_at(info);
  const DeviceBackend& device = device_of(where);
  const auto bytes = static_cast<size_t>(whole(info[1]));
  void* memory = nullptr;
  check_device(env, where, device.allocate(where.ordinal, bytes, &memory));
  if (info[2].As<Napi::Boolean>() && bytes > 0) {
    Status status = device.fill_zero(where.ordinal, memory, bytes, nullptr);
    // Waited for, so that the zeros are there for every stream.
    if (status == Status::ok) status = device.synchronize(where.ordinal, nullptr);
    if (status != Status::ok) {
      const DeviceError error = device.last_error();
      static_cast<void>(device.release(where.ordinal, memory));
      throw Napi::Error(env, device_error(env, status, error));
    }
  }
  return owner(env, Owned::memory, where, memory, static_cast<int64_t>(bytes));
}

// ownedHandle(owner): the address of memory, or the handle of a stream or of a graph.
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
  const Location where = device_at(info);
  Transfer t;
  t.device = where.ordinal;
  t.rows = static_cast<size_t>(whole(info[1]));
  t.width = static_cast<size_t>(whole(info[2]));
  t.to_stride = static_cast<size_t>(whole(info[4]));
  t.from_stride = static_cast<size_t>(whole(info[6]));
  const auto place = [&](size_t index, size_t stride) {
    const bool empty = t.rows == 0 || t.width == 0;
    if (info[index].IsBigInt()) {
      void* const data = address(info[index]);
      if (data == nullptr && !empty) fail(env, "an address is null");
      return static_cast<char*>(data);
    }
    const ArrayMemory memory = array_memory(info[index]);
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
  DeviceError error;
  const Status status = transfer(device_of(where), t, &error);
  if (status != Status::ok) throw Napi::Error(env, device_error(env, status, error));
  return env.Undefined();
}

// ---- Streams

// streamCreate(device): the owner of a new stream.
Napi::Value stream_create(const Napi::CallbackInfo& info) {
  const Location where = device_at(info);
  void* stream = nullptr;
  check_device(info.Env(), where, device_of(where).create_stream(where.ordinal, &stream));
  return owner(info.Env(), Owned::stream, where, stream, 0);
}

// streamRelease(device, stream): waits for a stream that somebody else owns and frees what was cached for it. Like
// every way of giving something back it never throws; a device that has failed says so at its next call.
Napi::Value stream_release(const Napi::CallbackInfo& info) {
  const Location where = device_at(info);
  static_cast<void>(device_of(where).release_workspace(where.ordinal, address(info[1])));
  return info.Env().Undefined();
}

// streamSynchronize(device, stream)
Napi::Value stream_synchronize(const Napi::CallbackInfo& info) {
  const Location where = device_at(info);
  check_device(info.Env(), where, device_of(where).synchronize(where.ordinal, address(info[1])));
  return info.Env().Undefined();
}

// streamWait(device, stream, other)
Napi::Value stream_wait(const Napi::CallbackInfo& info) {
  const Location where = device_at(info);
  check_device(info.Env(), where, device_of(where).wait_stream(where.ordinal, address(info[1]), address(info[2])));
  return info.Env().Undefined();
}

// ---- Graphs

// captureBegin(device, stream)
Napi::Value capture_begin(const Napi::CallbackInfo& info) {
  const Location where = device_at(info);
  check_device(info.Env(), where, device_of(where).begin_capture(where.ordinal, address(info[1])));
  return info.Env().Undefined();
}

// captureEnd(device, stream): the owner of the graph.
Napi::Value capture_end(const Napi::CallbackInfo& info) {
  const Location where = device_at(info);
  void* graph = nullptr;
  check_device(info.Env(), where, device_of(where).end_capture(where.ordinal, address(info[1]), &graph));
  return owner(info.Env(), Owned::graph, where, graph, 0);
}

// graphLaunch(device, graph, stream)
Napi::Value graph_launch(const Napi::CallbackInfo& info) {
  const Location where = device_at(info);
  void* const graph = address(info[1]);
  if (graph == nullptr) fail(info.Env(), "the graph was freed");
  check_device(info.Env(), where, device_of(where).launch_graph(where.ordinal, graph, address(info[2])));
  return info.Env().Undefined();
}

// onDeviceError(make): how failures of devices become errors.
Napi::Value on_device_error(const Napi::CallbackInfo& info) {
  info.Env().GetInstanceData<Environment>()->make_error = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

// By the function that lib/ registered.
Napi::Value error_of(Napi::Env env, const std::string& message, Status status, const DeviceError& error) {
  Napi::Object fields = Napi::Object::New(env);
  fields.Set("message", message);
  fields.Set("cudaCode", error.name);
  fields.Set("operation", error.operation);
  fields.Set("device", error.device < 0 ? std::string("cpu") : "cuda:" + std::to_string(error.device));
  fields.Set("shapes", error.shapes);
  fields.Set("contextLost", error.context_lost);
  fields.Set("outOfMemory", status == Status::out_of_memory);
  const Environment* const environment = env.GetInstanceData<Environment>();
  if (environment->make_error.IsEmpty()) return Napi::Error::New(env, message).Value();
  return environment->make_error.Call({fields});
}

}  // namespace

Napi::Value device_error(Napi::Env env, Status status, const DeviceError& error) {
  return error_of(env, error.message(), status, error);
}

Napi::Error out_of_memory(Napi::Env env) {
  const char* const message = "Expected enough memory of the host for a call, received none";
  return Napi::Error(env, error_of(env, message, Status::out_of_memory, DeviceError()));
}

void check_device(Napi::Env env, const Location& where, Status status) {
  if (where.kind == Location::host || (status != Status::device && status != Status::out_of_memory)) return;
  const DeviceError error = device_of(where).last_error();  // making the JavaScript error may call the device again
  throw Napi::Error(env, device_error(env, status, error));
}

AsyncCalls& async_calls(Napi::Env env) { return *env.GetInstanceData<Environment>()->calls; }

void export_memory(Napi::Env env, Napi::Object exports) {
  env.SetInstanceData(new Environment(env));
  add<allocate>(env, exports, "deviceAllocate");
  add<copy>(env, exports, "deviceCopy");
  add<owned_handle>(env, exports, "ownedHandle");
  add<owned_free>(env, exports, "ownedFree");
  add<stream_create>(env, exports, "streamCreate");
  add<stream_release>(env, exports, "streamRelease");
  add<stream_synchronize>(env, exports, "streamSynchronize");
  add<stream_wait>(env, exports, "streamWait");
  add<capture_begin>(env, exports, "captureBegin");
  add<capture_end>(env, exports, "captureEnd");
  add<graph_launch>(env, exports, "graphLaunch");
  add<on_device_error>(env, exports, "onDeviceError");
}

}  // namespace sdpo
