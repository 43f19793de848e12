// Shares in the memory of ArrayBuffers: for calls that another thread works on, and for memory that is kept between
// calls.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

namespace sdpo {

// One of the owners of an ArrayBuffer's memory, whose count is that of all.
using Share = std::shared_ptr<void>;

// Node-API keeps JavaScript objects alive, but not their memory: a buffer that is transferred (structuredClone,
// postMessage, transfer()) hands its memory to another buffer, with which it may go while a call still works on it. V8
// counts the owners of such memory, so that a share keeps it where it is. That is not part of Node-API: the functions
// are looked up by name in the running program, and used only where that is V8 of a version that they were tried with,
// built with the C++ library of this addon. Elsewhere there are no shares, and lib/ makes copies.
class SharedMemory {
 public:
  // Whether there are shares in this process.
  static bool available(napi_env env);

  // A share in the memory of an ArrayBuffer; none where none could be had, or where there are no bytes.
  static Share of(napi_env env, napi_value buffer);

  static size_t bytes(napi_env env, const Share& share);

  // A new ArrayBuffer of that memory, which is one more of its owners; null where it could not be made.
  static napi_value buffer(napi_env env, const Share& share);

  // Takes a share in the memory of a typed array, before its address is read. Memory of a SharedArrayBuffer cannot be
  // taken away from it, so that keeping the array is enough. False where no share could be had.
  bool add(napi_env env, napi_value typed_array);

 private:
  std::vector<Share> shares_;
};

}  // namespace sdpo
