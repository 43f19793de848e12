// Copies between host memory and devices that are finished when they return, staged through pinned memory where that is
// faster.
#pragma once

#include "backend.h"

namespace sdpo {

// `rows` runs of `width` bytes; consecutive runs start `to_stride` and `from_stride` bytes apart. At most one side is
// host memory.
struct Transfer {
  enum Kind { upload, download, on_device } kind = on_device;
  int device = 0;  // of the copy's stream
  size_t rows = 0, width = 0;
  char* to = nullptr;
  size_t to_stride = 0;
  const char* from = nullptr;
  size_t from_stride = 0;
  void* stream = nullptr;  // what the data waits for: it is copied after everything that was put on this stream
};

// Returns when the bytes have arrived. On failure nothing of the host memory is in use any more, and `error` says what
// was wrong.
Status transfer(const DeviceBackend& backend, const Transfer& transfer, DeviceError* error);

}  // namespace sdpo
