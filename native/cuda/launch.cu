// The choice of a kernel by the dtypes of a call, and what the device can do with it.
#include <map>
#include <mutex>

#include "../core/problem.h"
#include "launch.h"

namespace sdpo::cuda {
namespace {

// ---- Element access

struct Dtypes {
  bool uniform;  // one dtype for all tensors, and element weights that do not ask for more precision
  DType type;    // the one, or the compute type of the mixture
};

Dtypes dtypes_of(const Problem& p) {
  Dtypes out{true, p.chosen.policy.dtype};
  bool wide = false;
  const auto see = [&](const void* data, DType type, bool input) {
    if (data == nullptr) return;
    out.uniform = out.uniform && type == out.type;
    wide = wide || (input && type == DType::float64);
  };
  for (const Branch* branch : {&p.chosen, &p.rejected}) {
    see(branch->policy.data, branch->policy.dtype, true);
    see(branch->reference.data, branch->reference.dtype, true);
    see(branch->target.data, branch->target.dtype, true);
    see(branch->gradient.data, branch->gradient.dtype, false);
  }
  for (const TensorView* e : {&p.element_weights, &p.rejected_element_weights}) {
    if (e->data == nullptr || e->dtype != DType::float64 || out.type == DType::float64) continue;
    out.uniform = false;
    wide = true;
  }
  if (!out.uniform) out.type = wide ? DType::float64 : DType::float32;
  return out;
}

bool is_plain(const Problem& p) {
  const bool references = p.chosen.reference.data != nullptr && p.rejected.reference.data != nullptr;
  // The objective alone has the moments of a caller, whose branches may have been weighted apart.
  if (p.passes == Pass::objective) return false;
  return p.element_weights.data == nullptr && !(p.passes & Pass::cross) && (references || !(p.passes & Pass::moments));
}

KernelEntry choose_kernel(const Problem& p) {
  const Dtypes dtypes = dtypes_of(p);
  const bool plain = is_plain(p);
  if (!dtypes.uniform) return dtypes.type == DType::float64 ? mixed_float64_kernel() : mixed_float32_kernel();
  switch (dtypes.type) {
    case DType::float64:
      return float64_kernel(plain);
    case DType::float32:
      return float32_kernel(plain);
    case DType::float16:
      return float16_kernel(plain);
    case DType::bfloat16:
      break;
  }
  return bfloat16_kernel(plain);
}

// ---- What a device can do

// How many blocks of a kernel run at once.
Status resident(const void* kernel, int device, int64_t* out) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, int64_t>* const known =
      new std::map<std::pair<int, const void*>, int64_t>;
  std::lock_guard<std::mutex> lock(mutex);
  int64_t& found = (*known)[{device, kernel}];
  if (found == 0) {
    constexpr const char* kOperation = "asking for the occupancy";
    int per_multiprocessor = 0, multiprocessors = 0;
    CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, kThreads, 0), kOperation,
             device, std::string());
    CUDA_TRY(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), kOperation, device,
             std::string());
    if (per_multiprocessor == 0) return report(cudaErrorLaunchOutOfResources, kOperation, device, std::string());
    found = static_cast<int64_t>(per_multiprocessor) * multiprocessors;
  }
  *out = found;
  return Status::ok;
}

}  // namespace

Status choose_launch(const Problem& p, int device, Launch* out) {
  out->entry = choose_kernel(p);
  return resident(out->entry.kernel, device, &out->blocks);
}

}  // namespace sdpo::cuda
