/** Notices a run that cannot learn, or that learns the wrong thing, from the numbers every update has anyway, and says so once. */

import type { LatentArray } from '../tensor/operand.js';
import { Tensor } from '../tensor/tensor.js';

/** What a warning is about; the code does not change, the message may. */
export type TrainingWarningCode =
  | 'all-rows-masked'
  | 'no-gradient'
  | 'live-reference'
  | 'reference-differs'
  | 'errors-rise';

/** Something that is no error but that somebody should look at. */
export interface TrainingWarning {
  readonly code: TrainingWarningCode;
  /** Updates made when it was noticed. */
  readonly step: number;
  /** What was seen, what it means and what to do. */
  readonly message: string;
}

/** One update, as the watch sees it. */
export interface WatchedUpdate {
  /** Updates made, this one included. */
  readonly step: number;
  /** Under the names of the log. */
  readonly metrics: Readonly<Record<string, number>>;
  /** Whether predictions of policy or reference have 16 bits. */
  readonly half: boolean;
}

/** Updates in a row after which a state is taken for lasting, and updates whose mean is compared with the ones before. */
const LASTING = 10;
/** Means in a row that have to rise. */
const RISING = 3;
/** How far both errors have to be above the reference's: 5 % is more than the mean of 10 updates wavers by. */
const ABOVE = 1.05;
/**
 * Largest share of the error that the distance between two equal models may have. One computation in bfloat16 differs from another by relative errors of
 * 2^-9 each; of some ten of them, independent, the square is 10 · 2^-18 / 3 ≈ 1.3e-5 of the prediction's, and an error may be a tenth of that or less.
 * In float32 with TF32 products (2^-11) it is some 1e-6.
 */
const SAME = { half: 1e-3, full: 1e-5 } as const;

const BRANCHES = ['Chosen', 'Rejected'] as const;

/** Whether a prediction has 16 bits an element. */
export function isHalf(prediction: LatentArray | undefined): boolean {
  return prediction instanceof Tensor && (prediction.dtype === 'float16' || prediction.dtype === 'bfloat16');
}

/** Watches the updates of one run; costs a few comparisons each. */
export class LearningWatch {
  readonly #hasReference: boolean;
  readonly #follows: boolean;
  readonly #told = new Set<TrainingWarningCode>();
  /** Updates in a row in which every row was masked, the gradient was 0, and policy and reference were the same. */
  readonly #lasting = { masked: 0, zero: 0, same: 0 };
  /** Whether an update has changed the parameters. */
  #moved = false;
  /** Sums of m/r of both branches over the updates of a window, and the means of the windows before. */
  #sums = [0, 0];
  #count = 0;
  readonly #means: (readonly number[])[] = [];

  /**
   * @param hasReference whether a reference predicts; without one nothing is compared with it
   * @param follows whether it moves with the policy on purpose
   */
  constructor(hasReference: boolean, follows = false) {
    this.#hasReference = hasReference;
    this.#follows = follows;
  }

  /** @returns what is to be said now, mostly nothing */
  observe(update: WatchedUpdate): TrainingWarning[] {
    const { step, metrics } = update;
    const found: [TrainingWarningCode, string | undefined][] = [
      ['reference-differs', step === 1 && this.#hasReference ? differs(update) : undefined],
      ['all-rows-masked', this.#lasts('masked', metrics.maskFraction === 1) ? MASKED : undefined],
      ['live-reference', this.#isLive(metrics) ? LIVE : undefined],
      [
        'no-gradient',
        this.#lasts('zero', metrics.grad_norm === 0 && metrics.maskFraction !== 1) ? NO_GRADIENT : undefined,
      ],
      ['errors-rise', this.#rising(metrics)],
    ];
    this.#moved ||= (metrics.grad_norm ?? 0) > 0 && (metrics.learning_rate ?? 0) > 0;
    const warnings = found.flatMap(([code, message]) =>
      message === undefined || this.#told.has(code) ? [] : [{ code, step, message }],
    );
    for (const { code } of warnings) this.#told.add(code);
    return warnings;
  }

  #isLive(metrics: WatchedUpdate['metrics']): boolean {
    return this.#lasts('same', this.#hasReference && !this.#follows && this.#moved && isSame(metrics));
  }

  #lasts(what: 'masked' | 'zero' | 'same', now: boolean): boolean {
    this.#lasting[what] = now ? this.#lasting[what] + 1 : 0;
    return this.#lasting[what] >= LASTING;
  }

  #rising(metrics: WatchedUpdate['metrics']): string | undefined {
    const ratios = BRANCHES.map(
      (branch) => numberOf(metrics, `error${branch}`) / numberOf(metrics, `referenceError${branch}`),
    );
    if (!ratios.every(Number.isFinite)) return undefined;
    this.#sums = this.#sums.map((sum, i) => sum + ratios[i]!);
    if (++this.#count < LASTING) return undefined;
    this.#means.push(this.#sums.map((sum) => sum / LASTING));
    if (this.#means.length > RISING) this.#means.shift();
    this.#sums = [0, 0];
    this.#count = 0;
    const last = this.#means[this.#means.length - 1]!;
    const rises = BRANCHES.every(
      (_, i) => last[i]! > ABOVE && this.#means.every((mean, k) => k === 0 || mean[i]! > this.#means[k - 1]![i]!),
    );
    if (this.#means.length < RISING || !rises) return undefined;
    return (
      `The errors of both branches rise together: that of the chosen samples is ${last[0]!.toPrecision(3)} times the reference's, that of the rejected ones ` +
      `${last[1]!.toPrecision(3)} times. The policy may win the comparison by getting worse at everything: look at its samples. A smaller learning rate, a larger ` +
      'beta, sftWeight, klWeight and safeguard hold against it.'
    );
  }
}

const MASKED =
  `Every row of the last ${LASTING} updates was masked: their weights are below the threshold, and nothing is learnt. Lower maskThreshold (τ) or ` +
  'weightSharpness (κ); `sdpo calibrate` or calibrate() proposes values for the share of rows to keep, a ThresholdTracker holds it.';

const LIVE =
  `Policy and reference predicted exactly the same in the last ${LASTING} updates, though the parameters were updated before. Their difference is what the ` +
  'loss is made of: nothing is learnt. Either the reference moves with the policy (it needs a frozen copy of the weights, or the adapter switched off), or the ' +
  "updates are lost in rounding (a learning rate below the resolution of the parameters' dtype).";

const NO_GRADIENT =
  `The gradient was exactly 0 in the last ${LASTING} updates, though rows are kept: nothing is learnt. Look at the loss (the hinge beyond its margin and a ` +
  'sigmoid at large beta have no gradient), at the weights of the rows and pairs, and at the pullback of the policy.';

const numberOf = (metrics: WatchedUpdate['metrics'], name: string): number => metrics[name] ?? NaN;

/** Exactly: the distance of the predictions where it is known, the difference of the errors elsewhere. */
function isSame(metrics: WatchedUpdate['metrics']): boolean {
  return BRANCHES.every((branch) => {
    const drift = metrics[`drift${branch}`];
    const error = metrics[`error${branch}`];
    return Number.isNaN(drift) ? error === metrics[`referenceError${branch}`] : drift === 0;
  });
}

function differs({ metrics, half }: WatchedUpdate): string | undefined {
  const bound = SAME[half ? 'half' : 'full'];
  const shares = BRANCHES.map((branch) => {
    const error = numberOf(metrics, `error${branch}`);
    const drift = numberOf(metrics, `drift${branch}`) / error;
    // Of two errors alone only the difference is known, which is of the order of the root of the distance.
    const delta = Math.abs(error - numberOf(metrics, `referenceError${branch}`)) / error;
    return Number.isNaN(drift) ? (delta > Math.sqrt(bound) ? delta : 0) : drift > bound ? drift : 0;
  });
  const share = Math.max(...shares);
  if (!(share > 0)) return undefined;
  return (
    `Policy and reference differ before the first update: by ${share.toPrecision(2)} of the policy's squared error. That is as it should be where the policy was ` +
    'trained already; otherwise the reference has other weights, another precision or other inputs, or the halves of its predictions are swapped (chosen rows ' +
    'come before rejected ones).'
  );
}
