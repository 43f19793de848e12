/** What the modules that a config of `sdpo train` names have to export: a function each, what it is given and what it gives (docs/cli.md). */

import type { NoiseSchedule } from '../schedule/schedule.js';
import type { EvaluationContext } from './options.js';
import type { MaybePromise, PairSource, Policy } from './types.js';

/** @inline */
type Options = Readonly<Record<string, unknown>>;

/** What the function of a data module is told beside its options. */
export interface DataModuleContext {
  /** Absolute path of the folder that the paths of the config are relative to. */
  readonly folder: string;
  /** The seed of the run. */
  readonly seed: number;
  readonly schedule: NoiseSchedule;
}

/** What the function of a policy module is told beside its options. */
export interface PolicyModuleContext extends DataModuleContext {
  /** Shape of one sample of the data. */
  readonly shape: readonly number[];
}

/** What the function of an evaluation module is told beside its options. */
export interface EvaluationModuleContext<C = unknown> extends PolicyModuleContext {
  readonly data: PairSource<C>;
}

/** `data.module`: makes the pairs. */
export type DataModule<C = unknown> = (options: Options, context: DataModuleContext) => MaybePromise<PairSource<C>>;

/** `policy.module`: makes the policy, with the weights the training starts from. */
export type PolicyModule<C = unknown> = (options: Options, context: PolicyModuleContext) => MaybePromise<Policy<C>>;

/** `evaluation.module`: prepares an evaluation, which is called as the trainer's `evaluate.run`. */
export type EvaluationModule<C = unknown> = (
  options: Options,
  context: EvaluationModuleContext<C>,
) => MaybePromise<(context: EvaluationContext<C>) => MaybePromise<Readonly<Record<string, number>>>>;
