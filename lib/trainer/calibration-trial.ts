/** A short training at a small learning rate, undone afterwards: by how much it changes the errors is what β is proposed from. */

import type { PreferenceLoss } from '../loss/loss.js';
import { isReferenceFree } from '../loss/options.js';
import { DivergenceError } from '../native/errors.js';
import { checkInteger, checkNumberAbove, checkOptions, type Filled } from '../native/validate.js';
import type { CalibrationRow } from './calibration-row.js';
import type { PreferenceTrainerOptions } from './options.js';
import { PreferenceTrainer } from './trainer.js';
import type { Policy } from './types.js';

export interface CalibrationTrialOptions {
  /** The loss of the training to come; its β decides little where the optimizer normalizes its steps, as Adam does. */
  loss: PreferenceLoss;
  /** Constant rate of the trial's updates, small: a tenth of the training's peak, say. */
  learningRate: number;
  /** Updates of the trial. Default 16. */
  steps?: number | undefined;
  /**
   * Sum of the learning rates over the updates after which the logit should have the size that is asked for. The drift is scaled to it in proportion.
   * Default that of the trial: nothing is scaled.
   */
  horizon?: number | undefined;
  /** As in the training. */
  accumulate?: number | undefined;
  maxGradientNorm?: number | undefined;
}

/** What a trial found. */
export interface CalibrationTrial {
  readonly steps: number;
  readonly learningRate: number;
  /** Root mean square of the log-ratio margin that the trial made, at β = 1: (δ_r - δ_c)/2, or ω (δ_r - δ_c) with 'elbo'. NaN where it diverged. */
  readonly drift: number;
  /** The same as a share of the spread of the branches' errors: what is else assumed to be `relativeImprovement`. */
  readonly share: number;
  /** Drift after the whole trial over that after its half; 2 where it grows in proportion. */
  readonly growth: number;
}

/** Errors of the policy on the rows that were measured, in their order. */
type Errors = readonly Pick<CalibrationRow, 'errorChosen' | 'errorRejected'>[];

/** Everything that a trial needs, checked. */
export interface Trial<C> {
  readonly options: Filled<Omit<CalibrationTrialOptions, 'accumulate' | 'maxGradientNorm'>> &
    Pick<CalibrationTrialOptions, 'accumulate' | 'maxGradientNorm'>;
  readonly policy: Policy<C>;
  readonly training: Pick<
    PreferenceTrainerOptions<C>,
    'data' | 'pairsPerStep' | 'timesteps' | 'noise' | 'seed' | 'signal'
  >;
  /** Measures the policy as it is. */
  readonly measure: () => Promise<Errors>;
}

export function checkTrial(argument: string, trial: CalibrationTrialOptions): Trial<never>['options'] {
  trial = checkOptions(argument, trial, ['loss', 'learningRate', 'steps', 'horizon', 'accumulate', 'maxGradientNorm']);
  const learningRate = checkNumberAbove(`${argument}.learningRate`, trial.learningRate, 0);
  const steps = checkInteger(`${argument}.steps`, trial.steps ?? 16, 2);
  const horizon = checkNumberAbove(`${argument}.horizon`, trial.horizon ?? steps * learningRate, 0);
  return { ...trial, learningRate, steps, horizon };
}

/** Trains, measures after half of the updates and after all, and takes the policy back to where it was. */
export async function runTrial<C>({
  options,
  policy,
  training,
  measure,
}: Trial<C>): Promise<{ half: Errors; whole: Errors } | string> {
  const { loss, learningRate, steps, accumulate = 1, maxGradientNorm = 1 } = options;
  const { objective } = loss.options;
  if (isReferenceFree(objective)) return `objective '${objective}' has no reference that errors could drift from`;
  if (policy.reference === undefined) return 'the policy has no reference() to train against';
  const trainer = new PreferenceTrainer<C>({
    ...{ ...training, policy, loss, learningRate, accumulate, maxGradientNorm },
    ...{ logBinsEvery: 0, onWarning() {} },
  });
  const before = await policy.state();
  const upTo = async (step: number) => {
    for await (const _ of trainer.run(step)); // what it does is measured afterwards
    if (trainer.step < step && !training.signal?.aborted) return undefined;
    return measure();
  };
  try {
    const half = await upTo(Math.ceil(steps / 2));
    const whole = half && (await upTo(steps));
    return whole === undefined
      ? `the data have pairs for ${trainer.step} of its ${steps} updates only`
      : { half: half!, whole };
  } catch (error) {
    if (error instanceof DivergenceError) return `it diverged: ${error.message}`;
    throw error;
  } finally {
    await trainer.close();
    await policy.load(before);
  }
}

/** Where the drift grows by less or more than this over the second half, it is not in proportion to the learning rates. */
const GROWTH = { least: 1.2, most: 4 } as const;
/** A change of an error by less than this share of it may be rounding. */
const RESOLUTION = 1e-6;

/**
 * β at which the logit has the root mean square `size` at the trial's horizon.
 *
 * @param factors what a difference of δ is multiplied by in each row to give the log-ratio margin at β = 1
 * @param spread standard deviation of the same margin of the reference's own errors
 * @returns β, or why there is none
 */
export function betaOfTrial(
  measured: readonly CalibrationRow[],
  { half, whole }: { half: Errors; whole: Errors },
  { steps, learningRate, horizon }: Trial<never>['options'],
  { factors, spread, size }: { factors: ArrayLike<number>; spread: number; size: number },
): { trial: CalibrationTrial; beta: number | string } {
  const driftOf = (errors: Errors) => {
    const margins = errors.flatMap(({ errorChosen, errorRejected }, i) => {
      const row = measured[i]!;
      const margin = factors[i]! * (row.errorRejected - errorRejected - (row.errorChosen - errorChosen));
      return Number.isFinite(margin) ? [margin] : [];
    });
    return Math.sqrt(margins.reduce((sum, margin) => sum + margin ** 2, 0) / margins.length);
  };
  const changes = whole.map(({ errorChosen }, i) => Math.abs(errorChosen / measured[i]!.errorChosen - 1));
  const drift = driftOf(whole);
  const growth = drift / driftOf(half);
  const trial = { steps, learningRate, drift, share: drift / spread, growth };
  const updates = `${steps} updates at the rate ${learningRate}`;
  if (!(drift > 0) || changes.every((change) => !(change > RESOLUTION))) {
    return { trial, beta: `${updates} changed no error by more than rounding` };
  }
  if (!(growth >= GROWTH.least && growth <= GROWTH.most)) {
    const times = Number(growth.toPrecision(3));
    return {
      trial,
      beta: `over the second half of ${updates} the drift became ${times} times what it was, where 2 would be in proportion`,
    };
  }
  return { trial, beta: size / (drift * (horizon / (steps * learningRate))) };
}
