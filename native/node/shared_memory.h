// A share in the memory of ArrayBuffers, for calls that another thread works on.
#pragma once

#include <napi.h>

#include <memory>
#include <vector>

namespace sdpo {

// Node-API keeps JavaScript objects alive, but not their memory: a buffer that is transferred (structuredClone,
// postMessage, transfer()) hands its memory to another buffer, with which it may go while a call still works on it. V8
// counts the owners of such memory, so that a share keeps it where it is. That is not part of Node-API: the function is
// looked up by name in the running program, and used only where that is V8 of a version that it was tried with, built
// with the C++ library of this addon. Elsewhere there are no shares, and lib/ makes copies.
class SharedMemory {
 public:
  // Whether there are shares in this process.
  static bool available(napi_env env);

  // Takes a share in the memory of a typed array, before its address is read. Memory of a SharedArrayBuffer cannot be
  // taken away from it, so that keeping the array is enough. False where no share could be had.
  bool add(napi_env env, napi_value typed_array);

 private:
  std::vector<std::shared_ptr<void>> shares_;
};

}  // namespace sdpo
