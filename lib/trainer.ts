/** The public surface of `sdpo/trainer`: the training loop and what it is made of. */

export { type BinStatistics, TimestepBins } from './trainer/bins.js';
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
export { PreferenceTrainer } from './trainer/trainer.js';
export type * from './trainer/types.js';
