// Owners of memory, streams and graphs as externals of JavaScript, and the arguments of exports about devices.
#include "owned.h"

#if defined(SDPO_WITH_CUDA)

namespace sdpo {
namespace {

constexpr napi_type_tag kOwnedTag = {0x5d70cafe01b44e6aULL, 0x93f8a1d27c0e55b1ULL};

}  // namespace

void give_back(napi_env env, Owned* owned) noexcept {
  if (owned->handle == nullptr) return;
  try {
    switch (owned->kind) {
      case Owned::memory:
        static_cast<void>(cuda::release(owned->device, owned->handle));
        break;
      case Owned::stream:
        static_cast<void>(cuda::destroy_stream(owned->device, owned->handle));
        break;
      case Owned::graph:
        static_cast<void>(cuda::destroy_graph(owned->device, owned->handle));
        break;
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
  if (!info[index].IsExternal()) fail(info.Env(), "expected the owner of memory, of a stream or of a graph");
  const auto external = info[index].As<Napi::External<Owned>>();
  if (!external.CheckTypeTag(&kOwnedTag)) fail(info.Env(), "expected the owner of memory, of a stream or of a graph");
  return *external.Data();
}

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

}  // namespace sdpo

#endif
