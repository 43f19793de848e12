/** Options of a training: their meaning, their defaults and their checks. */

import type { Batch } from '../loss/batch.js';
import type { CallOptions } from '../loss/call-options.js';
import { PreferenceLoss } from '../loss/loss.js';
import { hasMask, isReferenceFree, readsBetaScale } from '../loss/options.js';
import type { Statistics } from '../loss/result.js';
import { SdpoRangeError, SdpoTypeError } from '../native/errors.js';
import {
  checkInteger,
  checkNumber,
  checkNumberAbove,
  checkOneOf,
  checkOptions,
  checkSignal,
  type Filled,
  failType,
  failValue,
} from '../native/validate.js';
import type { NoiseSchedule } from '../schedule/schedule.js';
import { MAX_SEED, SAMPLINGS, type Sampling, TIMESTEP_SAMPLING, type TimestepSampling } from './draws.js';
import type { TrainingWarning } from './learning-watch.js';
import type {
  MaybePromise,
  MetricsWriter,
  PairSource,
  Policy,
  Reference,
  ReferencePrediction,
  TrainerState,
  TrainingRows,
} from './types.js';
import { type ResolvedValidation, resolveValidation, type ValidationOptions } from './validation-options.js';

export const NOISES = ['shared', 'independent'] as const;
export const ON_NON_FINITE = ['stop', 'skip'] as const;

/** Keeps the mask's threshold while the model moves, as `ThresholdTracker` does. */
export interface Threshold {
  /** τ of each row. */
  threshold(timesteps: ArrayLike<number>): ArrayLike<number>;
  /** Learns from the rows of an update. */
  observe(timesteps: ArrayLike<number>, rows: Statistics['rows']): void;
  /** Plain JSON for a checkpoint. */
  state(): unknown;
  load(state: unknown): void;
}

/** Adjusts β while the model moves, as `BetaTracker` does. */
export interface BetaControl {
  /** What multiplies the β of the loss in the next update; finite, > 0. */
  scale(): number;
  /** Learns from the rows of an update that was made at this scale; `logit` and `mask` are of all its rows. */
  observe(rows: Pick<Statistics['rows'], 'logit' | 'mask'>, scale: number): void;
  /** Plain JSON for a checkpoint. */
  state(): unknown;
  load(state: unknown): void;
}

/** Keeps checkpoints, as `CheckpointStore` does. */
export interface Checkpoints {
  save(state: TrainerState): MaybePromise<unknown>;
}

/** What an evaluation callback is told. */
export interface EvaluationContext<C = unknown> {
  /** Updates made. */
  readonly step: number;
  readonly policy: Policy<C>;
  readonly signal: AbortSignal | undefined;
}

/** A last word on what the loss is given for some rows, for experiments: weights of rows, a threshold for each row. */
export type BeforeLoss<C = unknown> = (
  batch: Batch,
  rows: TrainingRows<C>,
  /** Evaluates the batch without gradients. */
  statistics: () => Statistics,
) => MaybePromise<{ batch?: Batch | undefined; call?: Pick<CallOptions, 'maskThreshold'> | undefined } | undefined>;

export interface PreferenceTrainerOptions<C = unknown> {
  policy: Policy<C>;
  data: PairSource<C>;
  /** Its `schedule` noises the latents and makes the targets, so it has to have one. */
  loss: PreferenceLoss;
  /** Integer in [0, 2^48): decides order, timesteps and noise. */
  seed: number;
  /** Pairs of one update. Default 32. */
  pairsPerStep?: number | undefined;
  /** Rows made of each pair, every one with a timestep and noise of its own. Default 1. */
  timestepsPerPair?: number | undefined;
  /** Parts in which the batch of an update is computed, one after another; divides `pairsPerStep`. The gradient is that of the whole batch. Default 1. */
  accumulate?: number | undefined;
  /** Whether the two branches of a row get the same noise, as in Diffusion-DPO, or each its own. Default 'shared'. */
  noise?: (typeof NOISES)[number] | undefined;
  /** Distribution of the timesteps. Default uniform over all. */
  timesteps?: TimestepSampling | undefined;
  /** Order of the pairs of a data set; a stream has its own. Default 'shuffle'. */
  sampling?: Sampling | undefined;
  /** Constant, or a function of the number of updates made before (see `learningRateSchedule`). */
  learningRate: number | ((step: number) => number);
  /** Global norm to which gradients are clipped by the policy. Default 1; Infinity: no clipping. */
  maxGradientNorm?: number | undefined;
  /** Moving average of the parameters, kept by the policy: decay min(decay, (1 + n) / (10 + n)) after n updates, or constant with `warmup: false`. */
  ema?: { decay: number; warmup?: boolean | undefined } | undefined;
  /** Where reference predictions come from. Default: the policy's own `reference`. */
  reference?: Reference<C> | ((rows: TrainingRows<C>) => MaybePromise<ReferencePrediction>) | undefined;
  /**
   * Moves the policy's own reference (`updateReference`) after every `every` updates, skipped ones included: with decay 0, the default, it becomes a copy of
   * the parameters, else their moving average. Not with a `reference` of the caller's, which does not move.
   */
  referenceUpdate?: { every: number; decay?: number | undefined } | undefined;
  /** Multiplies the β of the loss, and is logged as `beta`. For objectives that read `betaScale`. */
  beta?: BetaControl | undefined;
  /** Gives the mask's threshold in place of the loss's `maskThreshold`. For objectives with a mask. */
  threshold?: Threshold | undefined;
  /** A non-finite loss, row or gradient norm: 'stop' with a DivergenceError, or 'skip' the update. Default 'stop'. */
  onNonFinite?: (typeof ON_NON_FINITE)[number] | undefined;
  /** Updates skipped in a row after which the training stops after all. Default 10. */
  maxSkipped?: number | undefined;
  /** Bins of the statistics by timestep. Default 10. */
  bins?: number | undefined;
  /** The statistics by timestep are logged, and begin anew, every so many updates. Default 100; 0: never, they are only read. */
  logBinsEvery?: number | undefined;
  /** Get every update's metrics and every evaluation's. */
  writers?: readonly MetricsWriter[] | undefined;
  /** Called after every `every` updates (and before the first, with `atStart`); what it gives is logged. */
  evaluate?:
    | {
        every: number;
        atStart?: boolean | undefined;
        run(context: EvaluationContext<C>): MaybePromise<Readonly<Record<string, number>>>;
      }
    | undefined;
  /** Saved after every `every` updates, and when the training stops by its end or by the signal. */
  checkpoints?: { store: Checkpoints; every: number } | undefined;
  /** Held-out pairs: what the loss and its statistics are on them, with timesteps and noise fixed by the seed, is logged, and the best step kept. */
  validation?: ValidationOptions<C> | undefined;
  /** Stops after the update under way. */
  signal?: AbortSignal | undefined;
  beforeLoss?: BeforeLoss<C> | undefined;
  /** Told, once for each kind, where the run cannot learn or learns the wrong thing. Default: a warning of the process (`process.emitWarning`). */
  onWarning?: ((warning: TrainingWarning) => void) | undefined;
}

/** Options with the defaults filled in. */
export type ResolvedTrainerOptions<C> = Readonly<
  Filled<Omit<PreferenceTrainerOptions<C>, OptionalName | 'validation'>> &
    Pick<PreferenceTrainerOptions<C>, OptionalName>
> & { readonly schedule: NoiseSchedule; readonly validation: ResolvedValidation<C> | undefined };

type OptionalName =
  | 'ema'
  | 'reference'
  | 'referenceUpdate'
  | 'beta'
  | 'threshold'
  | 'evaluate'
  | 'checkpoints'
  | 'signal'
  | 'beforeLoss';

/** Names of all options. */
// biome-ignore format: names read best in rows
export const OPTION_NAMES: readonly string[] = [
  'policy', 'data', 'loss', 'seed', 'pairsPerStep', 'timestepsPerPair', 'accumulate', 'noise', 'timesteps', 'sampling', 'learningRate',
  'maxGradientNorm', 'ema', 'reference', 'referenceUpdate', 'beta', 'threshold', 'onNonFinite', 'maxSkipped', 'bins', 'logBinsEvery', 'writers', 'evaluate',
  'checkpoints', 'validation', 'signal', 'beforeLoss', 'onWarning',
];

/** Checks options and fills in the defaults. */
export function resolveTrainerOptions<C>(options: PreferenceTrainerOptions<C>): ResolvedTrainerOptions<C> {
  options = checkOptions('options', options, OPTION_NAMES);
  const at = (name: keyof PreferenceTrainerOptions) => `options.${name}`;
  const { policy, data, loss, reference } = options;
  checkMethods(at('policy'), policy, ['linearize', 'predict', 'step', 'discard', 'state', 'load']);
  if (data?.kind !== 'indexed' && data?.kind !== 'stream') failType(at('data'), 'a PairDataset or a PairStream', data);
  if (!(loss instanceof PreferenceLoss)) failType(at('loss'), 'a PreferenceLoss', loss);
  const { schedule } = loss.options;
  if (schedule === undefined) failType('options.loss.options.schedule', 'a NoiseSchedule', schedule);
  checkSource(at('data'), data);
  if (data.kind === 'stream' && options.sampling !== undefined) {
    failValue(at('sampling'), 'absent where the data are a stream', options.sampling, 'ERR_SDPO_INVALID_OPTION');
  }
  const pairsPerStep = checkInteger(at('pairsPerStep'), options.pairsPerStep ?? 32, 1);
  const accumulate = checkInteger(at('accumulate'), options.accumulate ?? 1, 1);
  if (pairsPerStep % accumulate !== 0)
    failValue(at('accumulate'), `a divisor of pairsPerStep (${pairsPerStep})`, accumulate);
  if (reference === undefined && policy.reference === undefined && !isReferenceFree(loss.options.objective)) {
    failType(
      at('reference'),
      `given, since the policy has no reference() and '${loss.options.objective}' needs one`,
      reference,
    );
  }
  if (reference !== undefined && typeof reference !== 'function') checkMethods(at('reference'), reference, ['predict']);
  if (options.beta !== undefined) checkBeta(at('beta'), options.beta, loss);
  if (options.threshold !== undefined) checkThreshold(at('threshold'), options.threshold, loss);
  if (typeof options.learningRate !== 'function') checkNumber(at('learningRate'), options.learningRate, 0);
  for (const name of ['evaluate', 'checkpoints'] as const) {
    if (options[name] !== undefined) checkInteger(`options.${name}.every`, options[name].every, 1);
  }
  if (options.evaluate !== undefined) checkMethods(at('evaluate'), options.evaluate, ['run']);
  if (options.checkpoints !== undefined) checkMethods('options.checkpoints.store', options.checkpoints.store, ['save']);
  const writers = options.writers ?? [];
  if (!Array.isArray(writers)) failType(at('writers'), 'an array of metrics writers', writers);
  writers.forEach((writer, i) => {
    checkMethods(`options.writers[${i}]`, writer, ['write']);
  });
  if (options.signal !== undefined) checkSignal(at('signal'), options.signal);
  for (const name of ['beforeLoss', 'onWarning'] as const) {
    if (options[name] !== undefined && typeof options[name] !== 'function')
      failType(at(name), 'a function', options[name]);
  }
  if (options.validation?.data?.kind === 'indexed') checkSource('options.validation.data', options.validation.data);
  const maxGradientNorm = options.maxGradientNorm ?? 1;
  if (maxGradientNorm !== Infinity) checkNumberAbove(at('maxGradientNorm'), maxGradientNorm, 0);
  return {
    ...options,
    schedule,
    seed: checkInteger(at('seed'), options.seed, 0, MAX_SEED),
    pairsPerStep,
    timestepsPerPair: checkInteger(at('timestepsPerPair'), options.timestepsPerPair ?? 1, 1),
    accumulate,
    noise: checkOneOf(at('noise'), options.noise ?? 'shared', NOISES),
    timesteps: checkTimesteps(at('timesteps'), options.timesteps ?? {}, schedule),
    sampling: checkOneOf(at('sampling'), options.sampling ?? 'shuffle', SAMPLINGS),
    maxGradientNorm,
    ema: options.ema && checkEma(at('ema'), options.ema, policy),
    referenceUpdate:
      options.referenceUpdate && checkReferenceUpdate(at('referenceUpdate'), options.referenceUpdate, options),
    onNonFinite: checkOneOf(at('onNonFinite'), options.onNonFinite ?? 'stop', ON_NON_FINITE),
    maxSkipped: checkInteger(at('maxSkipped'), options.maxSkipped ?? 10, 0),
    bins: checkInteger(at('bins'), options.bins ?? 10, 1),
    logBinsEvery: checkInteger(at('logBinsEvery'), options.logBinsEvery ?? 100, 0),
    writers,
    validation:
      options.validation && resolveValidation(at('validation'), options.validation, options, pairsPerStep / accumulate),
    onWarning:
      options.onWarning ??
      (({ code, message }) =>
        process.emitWarning(message, { type: 'SdpoWarning', code: `SDPO_${code.toUpperCase().replaceAll('-', '_')}` })),
  };
}

function checkMethods(argument: string, value: unknown, names: readonly string[]): void {
  if (typeof value !== 'object' || value === null) failType(argument, 'an object', value);
  for (const name of names) {
    const method = (value as Record<string, unknown>)[name];
    if (typeof method !== 'function') failType(`${argument}.${name}`, 'a function', method);
  }
}

function checkSource(argument: string, data: PairSource): void {
  if (!Array.isArray(data.shape)) failType(`${argument}.shape`, 'an array of axis lengths', data.shape);
  data.shape.forEach((axis, i) => {
    checkInteger(`${argument}.shape[${i}]`, axis, 1);
  });
  if (typeof data.fingerprint !== 'string') failType(`${argument}.fingerprint`, 'a string', data.fingerprint);
  if (data.kind === 'indexed') {
    checkInteger(`${argument}.length`, data.length, 1);
    checkMethods(argument, data, ['get']);
  } else {
    checkMethods(argument, data, ['read']);
  }
}

/** The names, and the values by a draw, before the first update needs one. */
function checkTimesteps(argument: string, value: TimestepSampling, schedule: NoiseSchedule): TimestepSampling {
  value = checkOptions(argument, value, TIMESTEP_SAMPLING);
  try {
    schedule.sampleTimesteps(1, { ...value, random: () => 0.5 });
  } catch (error) {
    if (error instanceof SdpoRangeError || error instanceof SdpoTypeError) {
      error.message = error.message.replaceAll('options.', `${argument}.`);
    }
    throw error;
  }
  return value;
}

function checkEma<C>(argument: string, ema: { decay: number; warmup?: boolean | undefined }, policy: Policy<C>) {
  ema = checkOptions(argument, ema, ['decay', 'warmup']);
  checkNumber(`${argument}.decay`, ema.decay, 0, 1);
  if (policy.updateAverage === undefined) {
    failType('options.policy.updateAverage', 'a function, since there is an ema', policy.updateAverage);
  }
  return { decay: ema.decay, warmup: ema.warmup ?? true };
}

function checkReferenceUpdate<C>(
  argument: string,
  update: { every: number; decay?: number | undefined },
  { policy, reference, loss }: PreferenceTrainerOptions<C>,
) {
  update = checkOptions(argument, update, ['every', 'decay']);
  const { objective } = loss.options;
  const refuse = (reason: string) => failValue(argument, `absent, since ${reason}`, update, 'ERR_SDPO_INVALID_OPTION');
  if (isReferenceFree(objective)) refuse(`objective '${objective}' has no reference`);
  if (reference !== undefined)
    refuse('options.reference is given, and what it gives is that of a model that does not move');
  if (policy.updateReference === undefined) {
    failType('options.policy.updateReference', 'a function, since there is a referenceUpdate', policy.updateReference);
  }
  return {
    every: checkInteger(`${argument}.every`, update.every, 1),
    decay: checkNumber(`${argument}.decay`, update.decay ?? 0, 0, 1),
  };
}

function checkBeta(argument: string, beta: BetaControl, loss: PreferenceLoss): void {
  checkMethods(argument, beta, ['scale', 'observe', 'state', 'load']);
  const { objective } = loss.options;
  if (!readsBetaScale(objective)) {
    failValue(argument, `absent, since objective '${objective}' reads no betaScale`, beta, 'ERR_SDPO_INVALID_OPTION');
  }
}

function checkThreshold(argument: string, threshold: Threshold, loss: PreferenceLoss): void {
  checkMethods(argument, threshold, ['threshold', 'observe', 'state', 'load']);
  const { objective } = loss.options;
  if (!hasMask(objective)) {
    failValue(argument, `absent, since objective '${objective}' has no mask`, threshold, 'ERR_SDPO_INVALID_OPTION');
  }
}
