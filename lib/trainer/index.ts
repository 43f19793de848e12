/**
 * The public surface of `sdpo/trainer`: the training loop and what it is made of.
 *
 * @module sdpo/trainer
 */

export { BetaTracker, type BetaTrackerOptions, type BetaTrackerState } from './beta-tracker.js';
export { type BinStatistics, TimestepBins } from './bins.js';
export {
  type CalibrateOptions,
  type Calibration,
  type CalibrationBin,
  type CalibrationTrial,
  type CalibrationTrialOptions,
  calibrate,
  formatCalibration,
} from './calibrate.js';
export {
  type CheckpointEntry,
  type CheckpointOptions,
  CheckpointStore,
  type LatestCheckpoint,
  readCheckpoint,
} from './checkpoint.js';
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
} from './data.js';
export type { Difference } from './difference.js';
export { SAMPLINGS, type Sampling, type TimestepSampling } from './draws.js';
export { type FolderLock, type FolderLockOptions, lockFolder } from './folder-lock.js';
export { DECAYS, type LearningRateOptions, learningRateSchedule } from './learning-rate.js';
export type { TrainingWarning, TrainingWarningCode } from './learning-watch.js';
export type {
  DataModule,
  DataModuleContext,
  EvaluationModule,
  EvaluationModuleContext,
  PolicyModule,
  PolicyModuleContext,
} from './modules.js';
export type {
  BeforeLoss,
  BetaControl,
  Checkpoints,
  EvaluationContext,
  PreferenceTrainerOptions,
  Threshold,
} from './options.js';
export { type ReferenceCache, type ReferenceCacheOptions, referenceCache } from './reference-cache.js';
export type { LoadOptions } from './setup.js';
export {
  ThresholdTracker,
  type ThresholdTrackerOptions,
  type ThresholdTrackerState,
} from './threshold-tracker.js';
export { timestepEdges } from './timestep-bins.js';
export { PreferenceTrainer } from './trainer.js';
export type * from './types.js';
export type { ValidationOptions } from './validation-options.js';
export { type ConsoleOptions, consoleWriter, type JsonlOptions, jsonlWriter } from './writers.js';
