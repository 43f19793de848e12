/** The public surface of the package. */

export type { Batch, BranchBatch, DeviceBatch, EvaluateOptions, PerBranch, RowNumbers } from './loss/batch.js';
export type {
  DeviceBranchCoefficients,
  DeviceCoefficients,
  DeviceEvaluation,
  DeviceStatistics,
} from './loss/device-result.js';
export {
  type AsyncCallOptions,
  type BranchMoments,
  type CallOptions,
  type CoefficientInput,
  type DeviceCallOptions,
  type Moments,
  PreferenceLoss,
  type ReserveOptions,
} from './loss/loss.js';
export {
  LINKS,
  type Link,
  type LogRatioReduction,
  type NonFinitePolicy,
  OBJECTIVES,
  type Objective,
  PAIR_WEIGHTS,
  type PairWeight,
  type PreferenceLossOptions,
  type ResolvedOptions,
  type Scope,
  type TimestepWeighting,
  WEIGHT_RATIOS,
  type WeightRatio,
} from './loss/options.js';
export {
  type BranchCoefficients,
  type Evaluation,
  type Gradients,
  logEntries,
  type Metrics,
  type RowStatistics,
  type Statistics,
} from './loss/result.js';
export {
  AbortError,
  CudaError,
  type DeviceFailure,
  DivergenceError,
  type ErrorCode,
  NonFiniteError,
  type NonFiniteSource,
  SdpoError,
  SdpoRangeError,
  SdpoTypeError,
} from './native/errors.js';
export {
  type BetaSchedule,
  type DiffusersConfig,
  type FlowOptions,
  type FromDiffusersOptions,
  NoiseSchedule,
  type PredictionType,
  type PresetName,
  type PresetOptions,
  type SamplerOptions,
  type SampleTimestepsOptions,
  type ScheduleFamily,
  type ScheduleRecord,
  type TimestepDistribution,
  type Transition,
  type VariancePreservingOptions,
} from './schedule/schedule.js';
export { type Device, devices } from './tensor/device.js';
export { DTYPES, type DType, type HostArray } from './tensor/dtypes.js';
export type { ElementwiseOptions } from './tensor/elementwise.js';
export { Graph } from './tensor/graph.js';
export { createRandom, noise, type Random, randomBits, type Seed } from './tensor/noise.js';
export type { LatentArray } from './tensor/operand.js';
export {
  decodeSafetensors,
  encodeSafetensors,
  type SafetensorsData,
  type SafetensorsDtype,
  type SafetensorsEntry,
  type SafetensorsFile,
} from './tensor/safetensors.js';
export { Stream } from './tensor/stream.js';
export {
  type BranchViews,
  type Layout,
  type PointerOptions,
  split,
  Tensor,
  type TensorOptions,
} from './tensor/tensor.js';
