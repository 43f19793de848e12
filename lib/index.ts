/** The public surface of the package. */

export type { Batch, BranchBatch, EvaluateOptions, PerBranch } from './batch.js';
export { type Device, devices } from './device.js';
export { DTYPES, type DType, type HostArray } from './dtypes.js';
export type { ElementwiseOptions } from './elementwise.js';
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
} from './errors.js';
export {
  type AsyncCallOptions,
  type BranchMoments,
  type CallOptions,
  type CoefficientInput,
  type Moments,
  PreferenceLoss,
} from './loss.js';
export { createRandom, noise, type Random, randomBits, type Seed } from './noise.js';
export type { LatentArray } from './operand.js';
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
} from './options.js';
export {
  type BranchCoefficients,
  type Evaluation,
  type Gradients,
  logEntries,
  type Metrics,
  type RowStatistics,
  type Statistics,
} from './result.js';
export {
  decodeSafetensors,
  encodeSafetensors,
  type SafetensorsData,
  type SafetensorsDtype,
  type SafetensorsEntry,
  type SafetensorsFile,
} from './safetensors.js';
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
} from './schedule.js';
export { Stream } from './stream.js';
export { type BranchViews, type Layout, type PointerOptions, split, Tensor, type TensorOptions } from './tensor.js';
