// Graphs: a capture begins, ends and is launched.
#include "check.h"
#include "stream.h"

namespace sdpo::cuda {

Status is_captured(int device, cudaStream_t stream, bool* out) {
  cudaStreamCaptureStatus status;
  CUDA_TRY(cudaStreamIsCapturing(stream, &status), "asking for a capture", device, std::string());
  *out = status != cudaStreamCaptureStatusNone;
  return Status::ok;
}

Status begin_capture(int device, void* stream) {
  CUDA_ENTER(device);
  CUDA_TRY(cudaStreamBeginCapture(static_cast<cudaStream_t>(stream), cudaStreamCaptureModeRelaxed),
           "beginning a capture", device, std::string());
  return Status::ok;
}

Status end_capture(int device, void* stream, void** graph) {
  *graph = nullptr;
  CUDA_ENTER(device);
  cudaGraph_t recorded = nullptr;
  CUDA_TRY(cudaStreamEndCapture(static_cast<cudaStream_t>(stream), &recorded), "ending a capture", device,
           std::string());
  cudaGraphExec_t made = nullptr;
  const cudaError_t code = cudaGraphInstantiateWithFlags(&made, recorded, 0);
  CUDA_LOG(cudaGraphDestroy(recorded), "making a graph", device);
  CUDA_TRY(code, "making a graph", device, std::string());
  *graph = made;
  return Status::ok;
}

Status launch_graph(int device, void* graph, void* stream) {
  CUDA_ENTER(device);
  CUDA_TRY(cudaGraphLaunch(static_cast<cudaGraphExec_t>(graph), static_cast<cudaStream_t>(stream)), "launching a graph",
           device, std::string());
  return Status::ok;
}

Status destroy_graph(int device, void* graph) {
  CUDA_ENTER(device);
  CUDA_TRY(cudaGraphExecDestroy(static_cast<cudaGraphExec_t>(graph)), "destroying a graph", device, std::string());
  return Status::ok;
}

}  // namespace sdpo::cuda
