// Which devices this build and this machine have, and why CUDA cannot be used where it cannot.
#include <stdexcept>
#include <string>

#include "../core/backends.h"
#include "exports.h"
#include "values.h"

namespace sdpo {
namespace {

std::string version(int number) { return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10); }

const DeviceBackend* cuda_devices() {
  const Backend* const backend = backend_for(Location::cuda);
  return backend == nullptr ? nullptr : backend->device;
}

Napi::Object cuda_device(Napi::Env env, const DeviceBackend& backend, int device) {
  const DeviceInfo found = backend.device_info(device, false);
  Napi::Object out = Napi::Object::New(env);
  out.Set("name", "cuda:" + std::to_string(device));
  out.Set("type", "cuda");
  out.Set("model", found.name);
  out.Set("computeCapability", std::to_string(found.computeMajor) + "." + std::to_string(found.computeMinor));
  out.Set("totalMemory", static_cast<double>(found.totalMemory));
  out.Set("multiprocessors", found.multiProcessors);
  out.Set("driverVersion", version(backend.driver_version()));
  out.Set("runtimeVersion", version(backend.runtime_version()));
  return out;
}

// devices(): the CPU, then the CUDA devices that answer.
Napi::Value devices(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  Napi::Array out = Napi::Array::New(env);
  Napi::Object cpu = Napi::Object::New(env);
  cpu.Set("name", cpu_backend().name);
  cpu.Set("type", "cpu");
  cpu.Set("threads", default_threads(env));
  cpu.Set("instructionSet", cpu_instruction_set());
  out.Set(uint32_t{0}, cpu);
  const DeviceBackend* const backend = cuda_devices();
  const int count = backend == nullptr ? 0 : backend->device_count(nullptr);
  for (int device = 0; device < count; ++device) {
    try {
      out.Set(out.Length(), cuda_device(env, *backend, device));
    } catch (const std::exception&) {
      // A device that cannot be asked cannot be used either; cuda() tells why.
    }
  }
  return out;
}

// cuda(): whether this build can use CUDA, and why this machine cannot where it cannot.
Napi::Value cuda_support(const Napi::CallbackInfo& info) {
  const Napi::Env env = info.Env();
  const auto text = [&](const std::string& value) { return static_cast<Napi::Value>(Napi::String::New(env, value)); };
  Napi::Object out = Napi::Object::New(env);
  const DeviceBackend* const backend = cuda_devices();
  out.Set("built", backend != nullptr);
  if (backend == nullptr) {
    out.Set("runtimeVersion", env.Null());
    out.Set("driverVersion", env.Null());
    out.Set("reason", "this build of the addon has no CUDA backend");
    return out;
  }
  std::string why;
  const int count = backend->device_count(&why);
  for (int device = 0; device < count; ++device) {
    try {
      static_cast<void>(backend->device_info(device, false));
    } catch (const std::exception& failed) {
      why += (why.empty() ? "" : "; ") + std::string(failed.what());
    }
  }
  const int driver = backend->driver_version();
  out.Set("runtimeVersion", version(backend->runtime_version()));
  out.Set("driverVersion", driver == 0 ? env.Null() : text(version(driver)));
  out.Set("reason", why.empty() ? env.Null() : text(why));
  return out;
}

}  // namespace

void export_devices(Napi::Env env, Napi::Object exports) {
  add<devices>(env, exports, "devices");
  add<cuda_support>(env, exports, "cuda");
}

}  // namespace sdpo
