// The CUDA backend's row in the table of backends.
#include "cuda.h"

namespace sdpo {

const Backend& cuda_backend() {
  static const DeviceBackend device = {
      cuda::device_count,   cuda::device_info,   cuda::runtime_version, cuda::driver_version,    cuda::last_error,
      cuda::allocate,       cuda::release,       cuda::allocate_pinned, cuda::release_pinned,    cuda::copy,
      cuda::fill_zero,      cuda::create_stream, cuda::destroy_stream,  cuda::release_workspace, cuda::synchronize,
      cuda::wait_stream,    cuda::begin_capture, cuda::end_capture,     cuda::launch_graph,      cuda::destroy_graph,
      cuda::evaluate_async,
  };
  static const Backend backend = {"cuda", cuda::evaluate, cuda::combine, cuda::noise, cuda::reserve, &device};
  return backend;
}

}  // namespace sdpo
