// The function of V8 that gives a share in memory.
#include "shared_memory.h"

#include <dlfcn.h>

namespace sdpo {
namespace {

// Versions of Node whose V8 was tried. A handle of Node-API is one of V8's as it is, and an object's method takes the
// place of the handle.
constexpr uint32_t kFirstTried = 20, kLastTried = 26;

// v8::ArrayBuffer::GetBackingStore() and v8::BackingStore::Data() const.
using GetBackingStore = std::shared_ptr<void> (*)(napi_value buffer);
using Data = void* (*)(const void* store);

struct Functions {
  GetBackingStore share = nullptr;
  Data data = nullptr;
};

Functions find(napi_env env) {
  const napi_node_version* node = nullptr;
  if (napi_get_node_version(env, &node) != napi_ok || node->major < kFirstTried || node->major > kLastTried) return {};
  // v8::ArrayBuffer::New(v8::Isolate*, std::shared_ptr<v8::BackingStore>): its name tells which C++ library the
  // shared_ptr is of, which that of the function without arguments does not.
  if (dlsym(RTLD_DEFAULT, "_ZN2v811ArrayBuffer3NewEPNS_7IsolateESt10shared_ptrINS_12BackingStoreEE") == nullptr)
    return {};
  Functions out;
  out.share = reinterpret_cast<GetBackingStore>(dlsym(RTLD_DEFAULT, "_ZN2v811ArrayBuffer15GetBackingStoreEv"));
  out.data = reinterpret_cast<Data>(dlsym(RTLD_DEFAULT, "_ZNK2v812BackingStore4DataEv"));
  if (out.share == nullptr || out.data == nullptr) return {};
  return out;
}

const Functions& functions(napi_env env) {
  static const Functions found = find(env);
  return found;
}

}  // namespace

bool SharedMemory::available(napi_env env) { return functions(env).share != nullptr; }

bool SharedMemory::add(napi_env env, napi_value typed_array) {
  napi_value buffer = nullptr;
  // Asking for the buffer moves the elements of a small array, which V8 keeps inside of the object, into one.
  if (napi_get_typedarray_info(env, typed_array, nullptr, nullptr, nullptr, &buffer, nullptr) != napi_ok) return false;
  bool is_buffer = false;
  if (napi_is_arraybuffer(env, buffer, &is_buffer) != napi_ok) return false;
  if (!is_buffer) return true;  // a SharedArrayBuffer
  void* address = nullptr;
  size_t bytes = 0;
  if (napi_get_arraybuffer_info(env, buffer, &address, &bytes) != napi_ok) return false;
  if (bytes == 0) return true;
  const Functions& v8 = functions(env);
  if (v8.share == nullptr) return false;
  std::shared_ptr<void> share = v8.share(buffer);
  if (share == nullptr || v8.data(share.get()) != address) return false;
  shares_.push_back(std::move(share));
  return true;
}

}  // namespace sdpo
