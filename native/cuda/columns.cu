// Sends numbers per row from the host to the kernels.
#include <algorithm>
#include <vector>

#include "columns.h"

namespace sdpo::cuda {
namespace {

constexpr int kValues = 256;  // of the 4 KiB that the arguments of a kernel may take
constexpr int kThreadsOfWrite = 128;

struct Values {
  double v[kValues];
};

__global__ void write_values(const __grid_constant__ Values values, int count, double* out) {
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreadsOfWrite) out[i] = values.v[i];
}

}  // namespace

int64_t gather_lists(RowColumns* columns, int64_t rows, double* out, double* room) {
  int64_t count = 0;
  for (RowColumn& column : columns->fields) {
    if (column.data == nullptr || !column.on_host) continue;
    for (int64_t row = 0; row < rows; ++row) out[count + row] = column_value(column, row);
    column.data = room + count;
    column.dtype = DType::float64;
    column.on_host = false;
    count += rows;
  }
  return count;
}

Status send_lists(RowColumns* columns, int64_t rows, double* room, int device, cudaStream_t stream) {
  std::vector<double> lists(static_cast<size_t>(RowInput::count * rows));
  const int64_t count = gather_lists(columns, rows, lists.data(), room);
  for (int64_t begin = 0; begin < count; begin += kValues) {
    const int n = static_cast<int>(std::min<int64_t>(kValues, count - begin));
    Values values{};
    std::copy_n(lists.data() + begin, n, values.v);
    write_values<<<1, kThreadsOfWrite, 0, stream>>>(values, n, room + begin);
    CUDA_TRY(cudaGetLastError(), "writing numbers per row", device, std::to_string(rows) + " rows");
  }
  return Status::ok;
}

Status load_send_lists(int device) {
  cudaFuncAttributes attributes;
  CUDA_TRY(cudaFuncGetAttributes(&attributes, reinterpret_cast<const void*>(&write_values)), "loading a kernel", device,
           std::string());
  return Status::ok;
}

}  // namespace sdpo::cuda
