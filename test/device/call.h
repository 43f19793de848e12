// One call of the C interface on a batch, with everything it points to: on the host, on a device, or with its row
// scalars apart from its tensors.
#pragma once

#include <memory>

#include "batch.h"

namespace sdpo_test {

inline std::vector<unsigned char> bytes_of(const std::vector<double>& numbers) {
  std::vector<unsigned char> out(numbers.size() * sizeof(double));
  if (!out.empty()) std::memcpy(out.data(), numbers.data(), out.size());
  return out;
}

class Call {
 public:
  // host: all of it on the host. host_scalars: tensors on the device, results on the host. device: all on the device.
  enum Place { host, host_scalars, device };

  Call(const Batch& b, Place place, cudaStream_t stream = nullptr)
      : place_(place), stream_(stream), rows_(b.rows), options_(b.options), inputs_(b.inputs) {
    const auto count = [](const char* list) { return static_cast<size_t>(sdpo_count(list)); };
    outputs_.assign(count("rowOutputs") * static_cast<size_t>(rows_), NAN);
    metrics.assign(count("metrics"), NAN);
    sdpo_problem_init(&problem_, sizeof problem_);
    problem_.rows = b.rows;
    problem_.size = b.size;
    problem_.options = &options_;
    problem_.gradient_scale = 8;
    problem_.denominator = b.rows == 0 ? 2 : 0;  // a mean over no rows does not exist
    problem_.stream = stream;
    for (int slot = 0; slot < Batch::slots; ++slot) {
      if (place == host) {
        host_[slot] = b.tensors[slot].bytes;
      } else {
        device_[slot] = std::make_unique<Memory>(b.tensors[slot].bytes);
      }
    }
    over_ = b.over;
    const auto base = [&](int slot) -> void* { return place == host ? host_[slot].data() : device_[slot]->data; };
    const auto branch = [&](sdpo_branch& to, int first) {
      const Tensor* const t = b.tensors + first;
      to.policy = t[0].view(base(first));
      to.reference = t[1].view(base(first + 1));
      to.target = t[2].view(base(first + 2));
      to.gradient = t[3].output(base(over_ ? first : first + 3));
    };
    branch(problem_.chosen, Batch::policy_c);
    branch(problem_.rejected, Batch::policy_r);
    problem_.element_weights = b.weights(0).view(base(Batch::element_weights));
    problem_.rejected_element_weights = b.tensors[Batch::rejected_weights].view(base(Batch::rejected_weights));
    if (place != host) problem_.tensors = {SDPO_CUDA, 0};
    if (place == device) {
      problem_.scalars = {SDPO_CUDA, 0};
      scalars_[0] = std::make_unique<Memory>(bytes_of(inputs_));
      scalars_[1] = std::make_unique<Memory>(bytes_of(outputs_));
      scalars_[2] = std::make_unique<Memory>(bytes_of(metrics));
      problem_.row_outputs = static_cast<double*>(scalars_[1]->data);
      problem_.metrics = static_cast<double*>(scalars_[2]->data);
    } else {
      problem_.row_outputs = outputs_.data();
      problem_.metrics = metrics.data();
    }
    columns_.resize(count("rowInputs"));
    sdpo_columns_init(columns_.data(), static_cast<int32_t>(columns_.size()));
    const bool on_device = place == device && !b.host_lists;
    const double* const lists = on_device ? static_cast<const double*>(scalars_[0]->data) : inputs_.data();
    for (size_t field = 0; field < columns_.size() && rows_ > 0; ++field) {
      sdpo_column& column = columns_[field];
      const size_t first = field * static_cast<size_t>(rows_);
      column.value = inputs_[first];
      if (!b.listed[field]) continue;
      column.data = lists + first;
      column.dtype = position(kFloat64);
      column.location = on_device ? SDPO_CUDA : SDPO_HOST;
    }
    problem_.columns = columns_.data();
    problem_.column_count = static_cast<int32_t>(columns_.size());
  }

  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  sdpo_status reserve() { return sdpo_reserve(&problem_); }

  // Fused, or pass by pass.
  sdpo_status run(bool apart) {
    ++g_calls;
    if (!apart) return sdpo_evaluate(&problem_, &failure);
    for (const auto pass : {sdpo_moments, sdpo_objective}) {
      const sdpo_status status = pass(&problem_, &failure);
      if (status != SDPO_OK) return status;
      ++g_calls;
    }
    return sdpo_gradients(&problem_, &failure);
  }

  // Waits for results that are on the device.
  void read_back() {
    if (place_ != device) return;
    CUDA(cudaStreamSynchronize(stream_));
    const std::vector<unsigned char> out = scalars_[1]->read(), of_batch = scalars_[2]->read();
    if (!out.empty()) std::memcpy(outputs_.data(), out.data(), out.size());
    std::memcpy(metrics.data(), of_batch.data(), of_batch.size());
  }

  // Puts another batch of the same shape into the same memory.
  void write(const Batch& b) {
    for (int slot = 0; slot < Batch::slots; ++slot) device_[slot]->write(b.tensors[slot].bytes);
    scalars_[0]->write(bytes_of(b.inputs));
  }

  std::vector<unsigned char> bytes(int slot) const {
    const int at = over_ ? slot - (Batch::gradient_c - Batch::policy_c) : slot;
    return place_ == host ? host_[at] : device_[at]->read();
  }

  double out(const char* field, int64_t row) const {
    return outputs_[static_cast<size_t>(sdpo_index("rowOutputs", field) * rows_ + row)];
  }

  bool same_bits(const Call& other) const {
    const auto equal = [](const std::vector<double>& a, const std::vector<double>& b) {
      bool all = a.size() == b.size();
      for (size_t i = 0; all && i < a.size(); ++i) all = same(a[i], b[i]);
      return all;
    };
    return equal(outputs_, other.outputs_) && equal(metrics, other.metrics) &&
           bytes(Batch::gradient_c) == other.bytes(Batch::gradient_c) &&
           bytes(Batch::gradient_r) == other.bytes(Batch::gradient_r);
  }

  sdpo_failure failure{};
  std::vector<double> metrics;

 private:
  const Place place_;
  const cudaStream_t stream_;
  const int64_t rows_;
  bool over_ = false;
  sdpo_options options_;
  std::vector<double> inputs_, outputs_;
  std::vector<sdpo_column> columns_;
  std::vector<unsigned char> host_[Batch::slots];
  std::unique_ptr<Memory> device_[Batch::slots], scalars_[3];
  sdpo_problem problem_;
};

}  // namespace sdpo_test
