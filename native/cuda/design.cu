// The choice of a kernel: its element access from the dtypes of a call, and the design from its shape and the device.
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <tuple>

#include "../core/objectives.h"
#include "arguments.h"
#include "design.h"

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

// How many blocks of a kernel run at once on a device, and the device's L2.
struct Resident {
  int64_t blocks = 0;
  int64_t l2 = 0;
};

Status resident(const void* kernel, int device, Resident* out) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, Resident>* const known =
      new std::map<std::pair<int, const void*>, Resident>;
  std::lock_guard<std::mutex> lock(mutex);
  Resident& found = (*known)[{device, kernel}];
  if (found.blocks == 0) {
    constexpr const char* kOperation = "asking for the occupancy";
    int per_multiprocessor = 0;
    cudaDeviceProp properties;
    CUDA_TRY(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&per_multiprocessor, kernel, kThreads, 0), kOperation,
             device, std::string());
    CUDA_TRY(cudaGetDeviceProperties(&properties, device), kOperation, device, std::string());
    if (per_multiprocessor == 0) return report(cudaErrorLaunchOutOfResources, kOperation, device, std::string());
    found.l2 = properties.l2CacheSize;
    found.blocks = static_cast<int64_t>(per_multiprocessor) * properties.multiProcessorCount;
  }
  *out = found;
  return Status::ok;
}

// Shared memory that a block of a cluster kernel may have in all; none where the kernel cannot run. A build for
// an older architecture runs on a newer device too, where its kernel is empty: what counts is what the kernel was
// compiled for.
Status cluster_shared_memory(const void* kernel, int device, int64_t* out) {
  static std::mutex mutex;
  static std::map<std::pair<int, const void*>, int64_t>* const known =
      new std::map<std::pair<int, const void*>, int64_t>;
  std::lock_guard<std::mutex> lock(mutex);
  auto found = known->find({device, kernel});
  if (found == known->end()) {
    constexpr const char* kOperation = "asking for clusters";
    int major = 0, minor = 0, clusters = 0, shared = 0;
    cudaFuncAttributes attributes;
    CUDA_TRY(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), kOperation, device,
             std::string());
    CUDA_TRY(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device), kOperation, device,
             std::string());
    CUDA_TRY(cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device), kOperation, device, std::string());
    CUDA_TRY(cudaDeviceGetAttribute(&shared, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), kOperation, device,
             std::string());
    CUDA_TRY(cudaFuncGetAttributes(&attributes, kernel), kOperation, device, std::string());
    const bool compiled = attributes.ptxVersion >= kClusterCapability;
    const bool able = clusters != 0 && compiled && 10 * major + minor >= kClusterCapability &&
                      static_cast<int64_t>(attributes.sharedSizeBytes) <= kClusterStaticShared;
    if (able) {
      const int dynamic = shared - static_cast<int>(attributes.sharedSizeBytes);
      CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, dynamic), kOperation, device,
               std::string());
    }
    found = known->emplace(std::make_pair(device, kernel), able ? shared : 0).first;
  }
  *out = found->second;
  return Status::ok;
}

// How many clusters of this shape run at once. A partition of a device (MIG, MPS) may have too few multiprocessors in
// one place even for one.
int64_t clusters_at_once(const void* kernel, int device, const ClusterPlan& plan) {
  using Key = std::tuple<int, const void*, int, int, int>;
  static std::mutex mutex;
  static std::map<Key, int64_t>* const known = new std::map<Key, int64_t>;
  std::lock_guard<std::mutex> lock(mutex);
  const Key key{device, kernel, plan.blocks, plan.groups, plan.shared_bytes};
  const auto found = known->find(key);
  if (found != known->end()) return found->second;
  cudaLaunchAttribute attribute;
  const cudaLaunchConfig_t config = cluster_launch(plan, 1, nullptr, &attribute);
  int clusters = 0;
  const cudaError_t code = cudaOccupancyMaxActiveClusters(&clusters, kernel, &config);
  if (code != cudaSuccess) cudaGetLastError();  // the tile kernel runs everywhere
  return (*known)[key] = code == cudaSuccess ? clusters : 0;
}

// ---- The design

Design from_environment() {
  const char* const name = std::getenv("SDPO_CUDA_DESIGN");
  if (name != nullptr && std::strcmp(name, "tiles") == 0) return Design::tiles;
  if (name != nullptr && std::strcmp(name, "clusters") == 0) return Design::clusters;
  return Design::automatic;
}

std::atomic<Design>& wanted() {
  static std::atomic<Design> design{from_environment()};
  return design;
}

// What the cluster kernel does: all passes at once, a plain batch of one dtype, and no B that would want the reference
// a second time.
bool fits_cluster_kernel(const Problem& p, const KernelEntry& entry) {
  constexpr int kAll = Pass::moments | Pass::objective | Pass::gradients;
  const bool gradient = p.chosen.gradient.data != nullptr || p.rejected.gradient.data != nullptr;
  return entry.cluster_kernel != nullptr && (p.passes & kAll) == kAll && gradient && !has_drift_gradient(p.options);
}

}  // namespace

void set_design(Design design) { wanted().store(design); }

cudaLaunchConfig_t cluster_launch(const ClusterPlan& plan, int64_t rows, cudaStream_t stream,
                                  cudaLaunchAttribute* attribute) {
  attribute->id = cudaLaunchAttributeClusterDimension;
  attribute->val.clusterDim.x = static_cast<unsigned>(plan.blocks);
  attribute->val.clusterDim.y = attribute->val.clusterDim.z = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(rows * plan.blocks));
  config.blockDim = dim3(static_cast<unsigned>(plan.groups * kThreads));
  config.dynamicSmemBytes = static_cast<size_t>(plan.shared_bytes);
  config.stream = stream;
  config.attrs = attribute;
  config.numAttrs = 1;
  return config;
}

Status choose_launch(const Problem& p, int device, Launch* out) {
  out->entry = choose_kernel(p);
  out->cluster = ClusterPlan{};
  Resident tiles;
  const Status asked = resident(out->entry.kernel, device, &tiles);
  out->blocks = tiles.blocks;
  out->l2 = tiles.l2;
  const Design design = wanted().load();
  if (asked != Status::ok || design == Design::tiles || !fits_cluster_kernel(p, out->entry)) return asked;
  int64_t shared = 0;
  const Status told = cluster_shared_memory(out->entry.cluster_kernel, device, &shared);
  if (told != Status::ok || shared == 0) return told;
  const ClusterPlan plan = cluster_plan(p.size, out->entry.pack, out->entry.compute_bytes, out->entry.sums, shared);
  if (plan.blocks == 0 || p.rows > kMostGridBlocks / plan.blocks) return Status::ok;
  const int64_t at_once = clusters_at_once(out->entry.cluster_kernel, device, plan);
  if (design == Design::automatic ? prefer_clusters(plan, p.rows, at_once) : at_once > 0) out->cluster = plan;
  return Status::ok;
}

Status uses_clusters(const Problem& problem, bool* out) {
  *out = false;
  CUDA_ENTER(problem.tensors.ordinal);
  Launch launch;
  const Status status = choose_launch(problem, problem.tensors.ordinal, &launch);
  if (status == Status::ok) *out = launch.cluster.blocks > 0;
  return status;
}

}  // namespace sdpo::cuda
