// Sizes beyond 32 bits on the CPU backend: rows that share one buffer (row stride 0), offsets beyond 2^32 bytes, and a
// row of 2^31 elements.
//
// Prints one line per check, "ok <what>" or "not ok <what>", or "skip <what>" where the machine lacks the memory.
// Memory is reserved without being touched where a check only needs addresses, so that the program stays small:
// untouched pages read as zeros.

#include <sys/mman.h>
#include <unistd.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

#include "../../../native/core/backend.h"

using namespace sdpo;

namespace {

int failures = 0;

void check(bool good, const char* what) {
  std::printf("%s %s\n", good ? "ok" : "not ok", what);
  if (!good) ++failures;
}

// Zeroed memory whose pages exist only once they are touched.
class Reserved {
 public:
  explicit Reserved(size_t bytes) : bytes_(bytes) {
    data_ = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (data_ == MAP_FAILED) data_ = nullptr;
  }
  ~Reserved() {
    if (data_ != nullptr) munmap(data_, bytes_);
  }
  Reserved(const Reserved&) = delete;
  Reserved& operator=(const Reserved&) = delete;

  template <class T>
  T* at(int64_t element) const {
    return static_cast<T*>(data_) + element;
  }
  bool exists() const { return data_ != nullptr; }

 private:
  void* data_;
  size_t bytes_;
};

// The results of a call with beta 2: psi = -delta, no weight, everything kept.
struct Call {
  explicit Call(int64_t rows) : outputs(static_cast<size_t>(rows) * RowOutput::count), metrics(Metric::count) {
    problem.rows = rows;
    problem.denominator = static_cast<double>(rows);
    problem.options.beta = 2;
    problem.columns.fields[RowInput::maskThreshold].value = 0;
    problem.row_outputs = outputs.data();
    problem.metrics = metrics.data();
  }

  double out(RowOutput::Index field, int64_t row) const {
    return outputs[static_cast<size_t>(field * problem.rows + row)];
  }

  Status run() { return cpu_backend().evaluate(problem, &failure); }

  Problem problem;
  Failure failure;
  std::vector<double> outputs, metrics;
};

TensorView view(const void* data, int64_t stride, DType dtype) { return {data, stride, dtype}; }

constexpr int64_t kMillion = int64_t{1} << 20;

// rows x D of one tensor is beyond 2^32 bytes, with every row in the same place.
void rows_that_share_a_buffer() {
  const int64_t rows = 1030, size = kMillion;
  std::vector<float> policy(static_cast<size_t>(size), 0.5f), zeros(static_cast<size_t>(size), 0.0f);
  Call call(rows);
  call.problem.size = size;
  call.problem.passes = Pass::moments | Pass::objective;
  call.problem.chosen = {view(policy.data(), 0, DType::float32),
                         view(zeros.data(), 0, DType::float32),
                         view(zeros.data(), 0, DType::float32),
                         {}};
  call.problem.rejected = {view(zeros.data(), 0, DType::float32),
                           view(zeros.data(), 0, DType::float32),
                           view(policy.data(), 0, DType::float32),
                           {}};
  const bool ran = call.run() == Status::ok;
  bool same = ran;
  for (int64_t row = 0; same && row < rows; ++row) {
    same = call.out(RowOutput::errorChosen, row) == 0.25 && call.out(RowOutput::deltaChosen, row) == 0.25 &&
           call.out(RowOutput::errorRejected, row) == 0.25 && call.out(RowOutput::deltaRejected, row) == 0;
  }
  check(same,
        "1030 rows of 2^20 float32 elements in one buffer, more than 2^32 bytes in all: the moments of every row");
  check(ran && std::fabs(call.metrics[Metric::batchLoss] - std::log1p(std::exp(0.25))) < 1e-12,
        "and the loss of the batch");
}

// Two rows 2^32 + 64 elements apart (2^33 bytes and more): an offset cut to 32 bits would read row 0 again.
void rows_far_apart() {
  const int64_t size = 100, stride = (int64_t{1} << 32) + 64;
  Reserved memory(static_cast<size_t>(stride + size) * 2), out(static_cast<size_t>(stride + size) * 2);
  if (!memory.exists() || !out.exists()) {
    std::printf("skip rows more than 2^32 elements apart\n");
    return;
  }
  const uint16_t one = 0x3f80, two = 0x4000;  // bfloat16
  for (int64_t i = 0; i < size; ++i) {
    *memory.at<uint16_t>(i) = one;
    *memory.at<uint16_t>(stride + i) = two;
  }
  std::vector<uint16_t> zeros(static_cast<size_t>(size), 0);
  Call call(2);
  call.problem.size = size;
  const TensorView zero = view(zeros.data(), 0, DType::bfloat16);
  call.problem.chosen = {view(memory.at<uint16_t>(0), stride, DType::bfloat16),
                         zero,
                         zero,
                         {out.at<uint16_t>(0), stride, DType::bfloat16}};
  call.problem.rejected = {zero, zero, zero, {}};
  const bool ran = call.run() == Status::ok;
  check(ran && call.out(RowOutput::errorChosen, 0) == 1 && call.out(RowOutput::errorChosen, 1) == 4,
        "rows more than 2^32 elements apart are read where they are");
  check(ran && *out.at<uint16_t>(0) != 0 && *out.at<uint16_t>(stride + size - 1) != 0 && *out.at<uint16_t>(size) == 0 &&
            *out.at<uint16_t>(64) == *out.at<uint16_t>(0),
        "and their gradients are written there");

  // combine: out = 1 x + 2 y over the same memory.
  const double a[] = {1, 1}, b[] = {2, 2};
  std::vector<uint16_t> sum(static_cast<size_t>(2 * size));
  CombineProblem combine;
  combine.rows = 2;
  combine.size = size;
  combine.a = a;
  combine.b = b;
  combine.x = combine.y = view(memory.at<uint16_t>(0), stride, DType::bfloat16);
  combine.out = {sum.data(), size, DType::bfloat16};
  cpu_backend().combine(combine);
  check(sum[0] == 0x4040 && sum.back() == 0x40c0, "combine reads them there too");
}

// One row of 2^31 elements: untouched pages, which read as zeros, apart from a few elements at the far end and in the
// middle.
void a_row_of_two_to_the_31() {
  const int64_t size = int64_t{1} << 31;
  Reserved memory(static_cast<size_t>(size) * 2);
  // Reading makes the kernel map the one page of zeros again and again, which costs page tables, not pages.
  if (!memory.exists() || sysconf(_SC_AVPHYS_PAGES) * (sysconf(_SC_PAGESIZE) / 1024) < kMillion) {
    std::printf("skip a row of 2^31 elements\n");
    return;
  }
  const int64_t places[] = {size - 1, (int64_t{1} << 30) + 5, (int64_t{1} << 30) + 4096};
  for (const int64_t place : places) *memory.at<uint16_t>(place) = 0x4000;  // 2 in bfloat16
  Call call(1);
  call.problem.size = size;
  call.problem.passes = Pass::moments;
  const TensorView whole = view(memory.at<uint16_t>(0), 0, DType::bfloat16);
  // Without a reference only policy and target are read; the rejected branch compares the tensor with itself.
  Reserved zeros(static_cast<size_t>(size) * 2);
  call.problem.chosen = {whole, {}, view(zeros.at<uint16_t>(0), 0, DType::bfloat16), {}};
  call.problem.rejected = {whole, {}, whole, {}};
  const bool ran = zeros.exists() && call.run() == Status::ok;
  check(ran && call.out(RowOutput::errorChosen, 0) == 3 * 4.0 / static_cast<double>(size),
        "a row of 2^31 elements: every element takes part once");
  check(ran && call.out(RowOutput::errorRejected, 0) == 0, "and the other branch has no error");
}

// Noise beyond 2^32 elements of the stream, cut across the border.
void noise_far_out() {
  const int64_t count = 64;
  std::vector<uint32_t> whole(static_cast<size_t>(count)), part(static_cast<size_t>(count));
  NoiseProblem noise;
  noise.seed = 7;
  noise.words = true;
  noise.offset = (uint64_t{1} << 34) - 32;
  noise.count = count;
  noise.out = whole.data();
  cpu_backend().noise(noise);
  noise.offset += 30;
  noise.out = part.data();
  cpu_backend().noise(noise);
  bool same = true;
  for (size_t i = 0; i < 34; ++i) same = same && whole[i + 30] == part[i];
  check(same, "the counter carries over from its low word");
}

}  // namespace

int main() {
  rows_that_share_a_buffer();
  rows_far_apart();
  a_row_of_two_to_the_31();
  noise_far_out();
  return failures == 0 ? 0 : 1;
}
