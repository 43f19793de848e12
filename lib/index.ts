/**
 * The public surface of the package.
 *
 * @module sdpo
 */

export type {
  Batch,
  BranchBatch,
  BranchElementWeights,
  DeviceBatch,
  ElementWeights,
  EvaluateOptions,
  PerBranch,
  RowBatch,
  RowNumbers,
} from './loss/batch.js';
export type {
  AsyncCallOptions,
  CallOptions,
  CoefficientInput,
  DeviceCallOptions,
  ObjectiveNumbers,
  ReserveOptions,
} from './loss/call-options.js';
export type {
  DeviceBranchCoefficients,
  DeviceCoefficients,
  DeviceEvaluation,
  DeviceStatistics,
} from './loss/device-result.js';
export { PreferenceLoss } from './loss/loss.js';
export { type BranchMoments, combineMoments, type Moments, type RowElements } from './loss/moments.js';
export { OBJECTIVES, type Objective, type PreferenceLossOptions, type ResolvedOptions } from './loss/options.js';
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
  LINKS,
  type Link,
  type LogRatioReduction,
  type NonFinitePolicy,
  PAIR_WEIGHTS,
  type PairWeight,
  type SafeguardScope,
  type Scope,
  type TimestepWeighting,
  WEIGHT_RATIOS,
  type WeightRatio,
} from './native/names.js';
export {
  type BetaSchedule,
  type DiffusersConfig,
  type FlowOptions,
  type FromDiffusersOptions,
  type LadderName,
  NoiseSchedule,
  type PredictionType,
  type PresetName,
  type PresetOptions,
  parseSchedulerConfig,
  type SamplerLadder,
  type SamplerOptions,
  type SampleTimestepsOptions,
  type ScheduleFamily,
  type ScheduleRecord,
  type ShiftOptions,
  type TimestepDistribution,
  type Transition,
  type TransitionVariance,
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
