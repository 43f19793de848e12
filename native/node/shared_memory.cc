// The functions of V8 that give shares in memory, and buffers of it.
#include "shared_memory.h"

#include <dlfcn.h>

namespace sdpo {
namespace {

// Versions of Node whose V8 was tried. A handle of Node-API is one of V8's as it is, and an object's method takes the
// place of the handle.
constexpr uint32_t kFirstTried = 20, kLastTried = 26;

struct Functions {
  Share (*share)(napi_value buffer) = nullptr;                 // v8::ArrayBuffer::GetBackingStore()
  void* (*data)(const void* store) = nullptr;                  // v8::BackingStore::Data() const
  size_t (*bytes)(const void* store) = nullptr;                // v8::BackingStore::ByteLength() const
  void* (*isolate)() = nullptr;                                // v8::Isolate::GetCurrent()
  napi_value (*buffer)(void* isolate, Share share) = nullptr;  // v8::ArrayBuffer::New(Isolate*, shared_ptr)
};

template <typename Function>
bool look_up(const char* name, Function** out) {
  *out = reinterpret_cast<Function*>(dlsym(RTLD_DEFAULT, name));
  return *out != nullptr;
}

Functions find(napi_env env) {
  const napi_node_version* node = nullptr;
  if (napi_get_node_version(env, &node) != napi_ok || node->major < kFirstTried || node->major > kLastTried) return {};
  Functions out;
  // The last name tells which C++ library the shared_ptr is of, which those of functions without arguments do not.
  const bool found = look_up("_ZN2v811ArrayBuffer15GetBackingStoreEv", &out.share) &&
                     look_up("_ZNK2v812BackingStore4DataEv", &out.data) &&
                     look_up("_ZNK2v812BackingStore10ByteLengthEv", &out.bytes) &&
                     look_up("_ZN2v87Isolate10GetCurrentEv", &out.isolate) &&
                     look_up("_ZN2v811ArrayBuffer3NewEPNS_7IsolateESt10shared_ptrINS_12BackingStoreEE", &out.buffer);
  return found ? out : Functions{};
}

const Functions& functions(napi_env env) {
  static const Functions found = find(env);
  return found;
}

}  // namespace

bool SharedMemory::available(napi_env env) { return functions(env).share != nullptr; }

Share SharedMemory::of(napi_env env, napi_value buffer) {
  void* address = nullptr;
  size_t bytes = 0;
  if (!available(env) || napi_get_arraybuffer_info(env, buffer, &address, &bytes) != napi_ok || bytes == 0) return {};
  Share share = functions(env).share(buffer);
  return share != nullptr && functions(env).data(share.get()) == address ? share : Share();
}

size_t SharedMemory::bytes(napi_env env, const Share& share) { return functions(env).bytes(share.get()); }

napi_value SharedMemory::buffer(napi_env env, const Share& share) {
  const Functions& v8 = functions(env);
  const napi_value buffer = v8.buffer(v8.isolate(), share);
  void* address = nullptr;
  size_t bytes = 0;
  if (napi_get_arraybuffer_info(env, buffer, &address, &bytes) != napi_ok) return nullptr;
  return address == v8.data(share.get()) && bytes == v8.bytes(share.get()) ? buffer : nullptr;
}

bool SharedMemory::add(napi_env env, napi_value typed_array) {
  napi_value buffer = nullptr;
  // Asking for the buffer moves the elements of a small array, which V8 keeps inside of the object, into one.
  if (napi_get_typedarray_info(env, typed_array, nullptr, nullptr, nullptr, &buffer, nullptr) != napi_ok) return false;
  bool is_buffer = false;
  if (napi_is_arraybuffer(env, buffer, &is_buffer) != napi_ok) return false;
  if (!is_buffer) return true;  // a SharedArrayBuffer
  size_t bytes = 0;
  if (napi_get_arraybuffer_info(env, buffer, nullptr, &bytes) != napi_ok) return false;
  if (bytes == 0) return true;
  Share share = of(env, buffer);
  if (share == nullptr) return false;
  shares_.push_back(std::move(share));
  return true;
}

}  // namespace sdpo
