/** The public surface of `sdpo/trainer`: the training loop and what it is made of. */

export { type BinStatistics, TimestepBins } from './trainer/bins.js';
export {
  type CalibrateOptions,
  type Calibration,
  type CalibrationBin,
  calibrate,
  formatCalibration,
} from './trainer/calibrate.js';
export {
  type CheckpointEntry,
  type CheckpointOptions,
  CheckpointStore,
  type LatestCheckpoint,
} from './trainer/checkpoint.js';
export {
  type ArrayPairOptions,
  type FingerprintMode,
  type PairIterable,
  type PairOptions,
  type ParquetPairOptions,
  pairsFromArray,
  pairsFromParquet,
  pairsFromSafetensors,
  pairsFromStream,
  type SafetensorsPairOptions,
  type StreamPairOptions,
} from './trainer/data.js';
export { SAMPLINGS, type Sampling, type TimestepSampling } from './trainer/draws.js';
export { DECAYS, type LearningRateOptions, learningRateSchedule } from './trainer/learning-rate.js';
export type {
  DataModule,
  DataModuleContext,
  EvaluationModule,
  EvaluationModuleContext,
  PolicyModule,
  PolicyModuleContext,
} from './trainer/modules.js';
export type {
  BeforeLoss,
  Checkpoints,
  EvaluationContext,
  PreferenceTrainerOptions,
  Threshold,
} from './trainer/options.js';
export { type ReferenceCache, type ReferenceCacheOptions, referenceCache } from './trainer/reference-cache.js';
export {
  ThresholdTracker,
  type ThresholdTrackerOptions,
  type ThresholdTrackerState,
} from './trainer/threshold-tracker.js';
export { timestepEdges } from './trainer/timestep-bins.js';
export { PreferenceTrainer } from './trainer/trainer.js';
export type * from './trainer/types.js';
export { type ConsoleOptions, consoleWriter, type JsonlOptions, jsonlWriter } from './trainer/writers.js';
