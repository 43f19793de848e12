// The checks of calls that are captured into CUDA graphs: the bits of a call at every launch, with new data, and what
// cannot be captured.
#pragma once

#include <string>

#include "correctness.h"

namespace sdpo::checks {

// The case with other numbers in all that is read.
inline Case renewed(Maker& make, const Case& c) {
  Case out = c;
  for (int slot = 0; slot < Case::slots; ++slot) {
    Tensor& t = out.tensors[slot];
    if (!t.present || slot == Case::gradient_c || slot == Case::gradient_r) continue;
    for (int64_t row = 0; row < (t.row_stride == 0 ? 1 : c.problem.rows); ++row) {
      for (int64_t i = 0; i < c.problem.size; ++i)
        set_element(t, row * t.row_stride + i, slot >= Case::weights ? make.uniform(0.25, 2) : make.uniform(-2, 2));
    }
  }
  if (c.listed[RowInput::rowWeight]) {
    for (int64_t row = 0; row < c.problem.rows; ++row) out.number(RowInput::rowWeight, row) = make.uniform(0.5, 1.5);
  }
  return out;
}

inline std::vector<unsigned char> result_of(const Case& c, int device) {
  ScalarsThere call(c, device, nullptr);
  Failure failure;
  must(cuda::evaluate(call.problem(), &failure), "evaluate");
  return call.result();
}

// One capture, launched with new data each time: at once, and several times in a row. In between the stream's workspace
// grows; the graph keeps the one it was captured with.
inline void check_graph(Maker& make, const Case& c, int device) {
  void *stream = nullptr, *graph = nullptr;
  must(cuda::create_stream(device, &stream), "create_stream");
  ScalarsThere call(c, device, stream);
  must(cuda::reserve(call.problem()), "reserve");
  Failure failure;
  must(cuda::begin_capture(device, stream), "begin_capture");
  EXPECT(cuda::evaluate(call.problem(), &failure) == Status::ok, "%s: %s", c.name.c_str(),
         cuda::last_error().message().c_str());
  must(cuda::end_capture(device, stream, &graph), "end_capture");
  for (int round = 0; round < 4; ++round) {
    const Case b = renewed(make, c);
    call.write(b);
    for (int i = 0; i <= round; ++i) must(cuda::launch_graph(device, graph, stream), "launch_graph");
    EXPECT(call.result() == result_of(b, device), "%s: a graph, round %d", c.name.c_str(), round);
    if (round != 1) continue;
    Case larger = make.make(DType::float32, false, 40 * c.problem.rows, 2000, false);
    ScalarsThere other(larger, device, stream);
    must(cuda::evaluate(other.problem(), &failure), "evaluate");
    EXPECT(other.result() == result_of(larger, device), "%s: after a capture", larger.name.c_str());
  }
  must(cuda::destroy_graph(device, graph), "destroy_graph");
  must(cuda::destroy_stream(device, stream), "destroy_stream");
}

// Lists on the host are those of the capture at every launch, wherever they went since.
inline void check_host_lists_in_graph(Maker& make, int device) {
  Case c = make.make(DType::bfloat16, false, 40, 301, false);  // more numbers than one kernel has arguments for
  for (bool& listed : c.listed) listed = true;
  void *stream = nullptr, *graph = nullptr;
  must(cuda::create_stream(device, &stream), "create_stream");
  Case gone = c;
  ScalarsThere call(gone, device, stream, true);
  must(cuda::reserve(call.problem()), "reserve");
  Failure failure;
  must(cuda::begin_capture(device, stream), "begin_capture");
  must(cuda::evaluate(call.problem(), &failure), "evaluate");
  must(cuda::end_capture(device, stream, &graph), "end_capture");
  for (double& x : gone.numbers) x = NAN;
  for (int round = 0; round < 2; ++round) {
    Case b = renewed(make, c);
    b.numbers = c.numbers;
    call.write(b);
    must(cuda::launch_graph(device, graph, stream), "launch_graph");
    EXPECT(call.result() == result_of(b, device), "lists of the host in a graph, round %d", round);
  }
  must(cuda::destroy_graph(device, graph), "destroy_graph");
  must(cuda::destroy_stream(device, stream), "destroy_stream");
}

// Refused with a reason, and the capture goes on.
inline void check_refused_captures(Maker& make, int device) {
  const Case c = make.make(DType::float32, false, 2, 1000, false);
  const Case larger = make.make(DType::float32, false, 4000, 10, false);
  void *stream = nullptr, *graph = nullptr;
  must(cuda::create_stream(device, &stream), "create_stream");
  ScalarsThere call(c, device, stream), large(larger, device, stream);
  DeviceCase on_host(c, device);
  Problem host_problem = on_host.problem();
  host_problem.stream = stream;
  must(cuda::reserve(call.problem()), "reserve");
  Failure failure;
  const auto refused = [&](Status status, const char* why) {
    const DeviceError& error = cuda::last_error();
    constexpr int kUnsupported = 900;  // cudaErrorStreamCaptureUnsupported
    EXPECT(status == Status::device && error.code == kUnsupported && !error.context_lost &&
               error.operation.find(why) != std::string::npos,
           "%s", error.message().c_str());
  };
  must(cuda::begin_capture(device, stream), "begin_capture");
  refused(cuda::evaluate(large.problem(), &failure), "reserve it before");
  refused(cuda::evaluate(host_problem, &failure), "leave them on the device");
  refused(cuda::evaluate_async(call.problem(), [](Status, const Failure&, const DeviceError*) {}),
          "leave them on the device");
  EXPECT(cuda::evaluate(call.problem(), &failure) == Status::ok, "%s", cuda::last_error().message().c_str());
  must(cuda::end_capture(device, stream, &graph), "end_capture");
  must(cuda::launch_graph(device, graph, stream), "launch_graph");
  EXPECT(call.result() == result_of(c, device), "a graph after refusals");
  must(cuda::destroy_graph(device, graph), "destroy_graph");
  must(cuda::destroy_stream(device, stream), "destroy_stream");
}

inline void check_graphs(int device) {
  Maker make(11);
  for (const DType dtype : {DType::bfloat16, DType::float64}) {
    check_graph(make, make.make(dtype, false, 3, 5001, false), device);
    check_graph(make, make.make(dtype, false, 3, 5001, true), device);
  }
  check_graph(make, make.make(DType::float32, true, 3, 2003, true), device);
  check_host_lists_in_graph(make, device);
  check_refused_captures(make, device);
}

}  // namespace sdpo::checks
