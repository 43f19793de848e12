// Stream capture and graphs for a CUDA runtime that has none (SDPO_CUDART): launches, copies and fills on a stream that
// is captured are kept with their arguments, and made again whenever the graph is launched.
//
// The linker leads the calls that can be captured through this file (--wrap, CMakeLists.txt). A capture is of one
// stream, and in the relaxed mode: what CUDA forbids on the captured stream itself is an error here too, and
// invalidates the capture. How long the arguments of a kernel are says its PTX, which has to be in the binary in plain
// text.
#include <cuda_runtime_api.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

extern "C" {
// Calls of the runtime itself, and the functions that nvcc's host code calls.
void** __real___cudaRegisterFatBinary(void* wrapper);
void __real___cudaRegisterFunction(void** handle, const char* host, char* device, const char* name, int limit, uint3*,
                                   uint3*, dim3*, dim3*, int*);
cudaError_t __real___cudaGetKernel(cudaKernel_t* out, const void* host);
cudaError_t __real___cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                                      cudaStream_t stream);
cudaError_t __real_cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                                    cudaStream_t stream);
cudaError_t __real_cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments);
cudaError_t __real_cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream);
cudaError_t __real_cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream);
cudaError_t __real_cudaStreamSynchronize(cudaStream_t stream);
cudaError_t __real_cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t __real_cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
}

namespace {

using Node = std::function<cudaError_t(cudaStream_t)>;
using Nodes = std::vector<Node>;

struct Capture {
  Nodes nodes;
  bool valid = true;
};

struct State {
  std::mutex mutex;
  std::map<std::string, std::vector<size_t>> sizes;  // of the arguments of a kernel, by its name
  std::map<const void*, std::string> names;          // of kernels, by the host's stub and by cudaKernel_t
  std::map<cudaStream_t, Capture> captures;
};

// Made by the first registration, which is earlier than this file's own static objects would be.
State& state() {
  static State* const instance = new State;
  return *instance;
}
using Lock = std::lock_guard<std::mutex>;

// The capture of a stream, or null.
Capture* capture_of(cudaStream_t stream) {
  const auto found = state().captures.find(stream);
  return found == state().captures.end() ? nullptr : &found->second;
}

// Whether the work belongs to a capture, which then has it.
bool recorded(cudaStream_t stream, const std::function<Node()>& make) {
  const Lock lock(state().mutex);
  Capture* const capture = capture_of(stream);
  if (capture != nullptr) capture->nodes.push_back(make());
  return capture != nullptr;
}

// What a captured stream cannot do.
cudaError_t forbidden(cudaStream_t stream, cudaError_t why) {
  const Lock lock(state().mutex);
  Capture* const capture = capture_of(stream);
  if (capture == nullptr) return cudaSuccess;
  capture->valid = false;
  return why;
}

// ---- Arguments of kernels

// ".param .align 8 .b8 name[464]": the bytes of the type, times the number in brackets.
size_t bytes_of(std::string_view declaration) {
  size_t bytes = 0;
  for (size_t at = 0; bytes == 0 && (at = declaration.find('.', at)) != std::string_view::npos; ++at) {
    const char kind = declaration[at + 1];
    const int bits = std::atoi(std::string(declaration.substr(at + 2, 3)).c_str());
    if (std::strchr("busf", kind) != nullptr && bits >= 8) bytes = static_cast<size_t>(bits) / 8;
  }
  const size_t bracket = declaration.find('[');
  if (bracket == std::string_view::npos) return bytes;
  return bytes * static_cast<size_t>(std::atoi(std::string(declaration.substr(bracket + 1, 9)).c_str()));
}

// Reads ".entry name(.param ..., .param ...)" wherever it stands.
void read_entries(std::string_view text) {
  constexpr std::string_view kEntry = ".entry ", kParameter = ".param";
  for (size_t at = 0; (at = text.find(kEntry, at)) != std::string_view::npos;) {
    at += kEntry.size();
    const size_t open = text.find('(', at), close = text.find(')', at);
    if (close == std::string_view::npos || open > close) continue;
    std::vector<size_t> sizes;
    for (size_t p = text.find(kParameter, open); p < close; p = text.find(kParameter, p + 1)) {
      sizes.push_back(
          bytes_of(text.substr(p + kParameter.size(), text.find_first_of(",)", p) - p - kParameter.size())));
    }
    state().sizes[std::string(text.substr(at, open - at))] = sizes;
  }
}

// A copy of the arguments of a launch.
struct Arguments {
  std::vector<std::vector<char>> values;
  std::vector<void*> pointers;

  Arguments(const void* kernel, void** given) {
    for (const size_t size : state().sizes.at(state().names.at(kernel))) {
      const char* const from = static_cast<const char*>(given[values.size()]);
      values.emplace_back(from, from + size);
    }
  }
  Arguments(const Arguments& other) : values(other.values) {}
  void** at() {
    pointers.clear();
    for (auto& value : values) pointers.push_back(value.data());
    return pointers.data();
  }
};

}  // namespace

extern "C" {

// ---- Kernels make themselves known

void** __wrap___cudaRegisterFatBinary(void* wrapper) {
  struct Wrapper {
    int magic, version;
    const char* data;
    void* name;
  };
  const char* const data = static_cast<const Wrapper*>(wrapper)->data;
  uint16_t header;
  uint64_t size;
  std::memcpy(&header, data + 6, sizeof header);
  std::memcpy(&size, data + 8, sizeof size);
  const Lock lock(state().mutex);
  read_entries({data + header, size});
  return __real___cudaRegisterFatBinary(wrapper);
}

void __wrap___cudaRegisterFunction(void** handle, const char* host, char* device, const char* name, int limit,
                                   uint3* thread, uint3* block, dim3* block_size, dim3* grid_size, int* warp) {
  const Lock lock(state().mutex);
  state().names[host] = name;
  __real___cudaRegisterFunction(handle, host, device, name, limit, thread, block, block_size, grid_size, warp);
}

cudaError_t __wrap___cudaGetKernel(cudaKernel_t* out, const void* host) {
  const cudaError_t code = __real___cudaGetKernel(out, host);
  const Lock lock(state().mutex);
  if (code == cudaSuccess) state().names[*out] = state().names.at(host);
  return code;
}

// ---- What can be captured

cudaError_t __wrap___cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                                      cudaStream_t stream) {
  const auto make = [&] {
    return [=, kept = Arguments(kernel, arguments)](cudaStream_t on) mutable {
      return __real___cudaLaunchKernel(kernel, grid, block, kept.at(), shared, on);
    };
  };
  if (recorded(stream, make)) return cudaSuccess;
  return __real___cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

cudaError_t __wrap_cudaLaunchKernel(const void* kernel, dim3 grid, dim3 block, void** arguments, size_t shared,
                                    cudaStream_t stream) {
  const auto make = [&] {
    return [=, kept = Arguments(kernel, arguments)](cudaStream_t on) mutable {
      return __real_cudaLaunchKernel(kernel, grid, block, kept.at(), shared, on);
    };
  };
  if (recorded(stream, make)) return cudaSuccess;
  return __real_cudaLaunchKernel(kernel, grid, block, arguments, shared, stream);
}

cudaError_t __wrap_cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* kernel, void** arguments) {
  const auto make = [&] {
    std::vector<cudaLaunchAttribute> attributes(config->attrs, config->attrs + config->numAttrs);
    return [copy = *config, attributes, kernel, kept = Arguments(kernel, arguments)](cudaStream_t on) mutable {
      copy.attrs = attributes.data();
      copy.stream = on;
      return __real_cudaLaunchKernelExC(&copy, kernel, kept.at());
    };
  };
  if (recorded(config->stream, make)) return cudaSuccess;
  return __real_cudaLaunchKernelExC(config, kernel, arguments);
}

cudaError_t __wrap_cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const auto make = [&] { return [=](cudaStream_t on) { return __real_cudaMemcpyAsync(to, from, bytes, kind, on); }; };
  return recorded(stream, make) ? cudaSuccess : __real_cudaMemcpyAsync(to, from, bytes, kind, stream);
}

cudaError_t __wrap_cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  const auto make = [&] { return [=](cudaStream_t on) { return __real_cudaMemsetAsync(to, value, bytes, on); }; };
  return recorded(stream, make) ? cudaSuccess : __real_cudaMemsetAsync(to, value, bytes, stream);
}

// ---- What cannot

cudaError_t __wrap_cudaStreamSynchronize(cudaStream_t stream) {
  const cudaError_t why = forbidden(stream, cudaErrorStreamCaptureUnsupported);
  return why != cudaSuccess ? why : __real_cudaStreamSynchronize(stream);
}

// On a device these fork and join a capture.
cudaError_t __wrap_cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  const cudaError_t why = forbidden(stream, cudaErrorStreamCaptureUnsupported);
  return why != cudaSuccess ? why : __real_cudaEventRecord(event, stream);
}

cudaError_t __wrap_cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags) {
  const cudaError_t why = forbidden(stream, cudaErrorStreamCaptureIsolation);
  return why != cudaSuccess ? why : __real_cudaStreamWaitEvent(stream, event, flags);
}

// ---- Captures and graphs

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  *mode = cudaStreamCaptureModeRelaxed;
  return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* out) {
  const Lock lock(state().mutex);
  const Capture* const capture = capture_of(stream);
  *out = capture == nullptr ? cudaStreamCaptureStatusNone
         : capture->valid   ? cudaStreamCaptureStatusActive
                            : cudaStreamCaptureStatusInvalidated;
  return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  const Lock lock(state().mutex);
  if (stream == nullptr) return cudaErrorStreamCaptureUnsupported;
  return state().captures.emplace(stream, Capture()).second ? cudaSuccess : cudaErrorIllegalState;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* out) {
  const Lock lock(state().mutex);
  *out = nullptr;
  const auto found = state().captures.find(stream);
  if (found == state().captures.end()) return cudaErrorIllegalState;
  const Capture capture = std::move(found->second);
  state().captures.erase(found);
  if (!capture.valid) return cudaErrorStreamCaptureInvalidated;
  *out = reinterpret_cast<cudaGraph_t>(new Nodes(capture.nodes));
  return cudaSuccess;
}

cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* out, cudaGraph_t graph, unsigned long long) {
  *out = reinterpret_cast<cudaGraphExec_t>(new Nodes(*reinterpret_cast<Nodes*>(graph)));
  return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graph, cudaStream_t stream) {
  for (const Node& node : *reinterpret_cast<Nodes*>(graph)) {
    const cudaError_t code = node(stream);
    if (code != cudaSuccess) return code;
  }
  return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete reinterpret_cast<Nodes*>(graph);
  return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graph) {
  delete reinterpret_cast<Nodes*>(graph);
  return cudaSuccess;
}
}
