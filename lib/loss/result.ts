/** Results of a preference loss: per-row statistics, metrics and gradients, as views of the arrays the addon writes. */

import { METRIC_OFFSET, METRICS_LENGTH, ROW_OUTPUT, ROW_OUTPUT_COUNT } from '../native/contract.js';
import { METRICS, type MetricName, ROW_STATISTICS, type RowStatistic } from '../native/names.js';
import type { LatentArray } from '../tensor/operand.js';
import type { Tensor } from '../tensor/tensor.js';
import type { Scalars } from './columns.js';

/** One Float64Array of length rows per statistic (see docs/api.md for each). @useDeclaredType */
export type RowStatistics = { readonly [K in RowStatistic]: Float64Array };

/**
 * Means over the rows of every statistic (non-finite entries left out; NaN where there is none), and: `implicitAccuracy` share of rows with
 * ψ_c > ψ_r, a tie counting ½; `rewardMargin` mean of ψ_c - ψ_r; `maskFraction` share of rows removed; `clipFraction` share of weights that the
 * clip changed; `logRatioClipFraction` share of the branches' log-ratios that `logRatioClip` changed; `nonFiniteRows` number of rows with a
 * non-finite value.
 *
 * @useDeclaredType
 */
export type Metrics = { [K in MetricName]: number };

/** Derivatives of the batch loss with respect to the moments of each row: A = ∂L/∂m + ∂L/∂δ and B = ∂L/∂q, gradientScale included. */
export interface BranchCoefficients {
  a: Float64Array;
  b: Float64Array;
}

export interface Gradients<C extends LatentArray = LatentArray, R extends LatentArray = LatentArray> {
  /** ∂loss/∂chosen.policy, of the same kind, dtype and shape as it. */
  chosen: C;
  /** ∂loss/∂rejected.policy, of the same kind, dtype and shape as it. */
  rejected: R;
  /** Where both policies are views that `split` made of one stacked tensor: the gradient of that tensor, of which the two above are views. */
  stacked?: Tensor;
}

/** What `evaluate` with `gradients: false` gives. */
export interface Statistics {
  /** Loss of the batch: sum over rows (removed rows included) divided by the denominator. */
  readonly loss: number;
  readonly rows: RowStatistics;
  readonly metrics: Metrics;
  /** What `PreferenceLoss.gradients` needs to form the gradient later, or scaled. */
  readonly coefficients: { readonly chosen: BranchCoefficients; readonly rejected: BranchCoefficients };
}

/** What `evaluate` gives. */
export interface Evaluation<C extends LatentArray = LatentArray, R extends LatentArray = LatentArray>
  extends Statistics {
  readonly gradients: Gradients<C, R>;
}

/** The arrays behind a result: allocated once, written by the addon, and written again when the result is passed as `into`. */
export class ResultBuffers implements Statistics {
  loss = NaN;
  readonly rows: RowStatistics;
  readonly metrics: Metrics;
  gradients: Gradients | undefined;
  #pending = false;
  readonly #rowOutputs: Float64Array;
  readonly #metrics: Float64Array;
  readonly #count: number;
  #scalars: Scalars | undefined;
  #coefficients: Statistics['coefficients'] | undefined;

  constructor(count: number) {
    this.#count = count;
    const bytes = Float64Array.BYTES_PER_ELEMENT;
    const length = ROW_OUTPUT_COUNT * count;
    // One block of memory for both: taking one is most of the cost.
    const buffer = new ArrayBuffer((length + METRICS_LENGTH) * bytes);
    this.#rowOutputs = new Float64Array(buffer, 0, length);
    this.#metrics = new Float64Array(buffer, length * bytes);
    const rows = {} as { -readonly [K in RowStatistic]: Float64Array };
    for (const name of ROW_STATISTICS) rows[name] = this.#column(name);
    this.rows = rows;
    const metrics = {} as Metrics;
    for (const name of METRICS) metrics[name] = NaN;
    this.metrics = metrics;
  }

  /** @internal Whether an asynchronous call is writing these buffers. */
  get pending(): boolean {
    return this.#pending;
  }
  set pending(value: boolean) {
    this.#pending = value;
  }

  get coefficients(): Statistics['coefficients'] {
    this.#coefficients ??= {
      chosen: { a: this.#column('aChosen'), b: this.#column('bChosen') },
      rejected: { a: this.#column('aRejected'), b: this.#column('bRejected') },
    };
    return this.#coefficients;
  }

  #column(name: keyof typeof ROW_OUTPUT): Float64Array {
    const outputs = this.#rowOutputs;
    // Like subarray, which takes several times as long.
    const start = outputs.byteOffset + ROW_OUTPUT[name] * this.#count * outputs.BYTES_PER_ELEMENT;
    return new Float64Array(outputs.buffer, start, this.#count);
  }

  /** Reads the loss and the metrics after a call. */
  finish(): this {
    const read = this.#metrics;
    const metrics = this.metrics;
    this.loss = read[0]!;
    for (let i = 0; i < METRICS.length; i++) metrics[METRICS[i]!] = read[METRIC_OFFSET + i]!;
    return this;
  }

  /**
   * @internal Hands out the scalars of an earlier call, which the result has no longer then: a call under way has its scalars to itself, even
   * where another one writes the same result.
   */
  static takeScalars(result: ResultBuffers): Scalars | undefined {
    const scalars = result.#scalars;
    result.#scalars = undefined;
    return scalars;
  }

  /** @internal To be called once nothing reads the scalars any more. */
  static keepScalars(result: ResultBuffers, scalars: Scalars): void {
    result.#scalars = scalars;
  }

  /** @internal */
  static raw(result: ResultBuffers): { rowOutputs: Float64Array; metrics: Float64Array; count: number } {
    return { rowOutputs: result.#rowOutputs, metrics: result.#metrics, count: result.#count };
  }

  /** @internal */
  static column(result: ResultBuffers, name: keyof typeof ROW_OUTPUT): Float64Array {
    return result.#column(name);
  }
}

/** Names under which trainers log these metrics, as TRL's DPO trainer does; the rest keep their own. */
const LOG_NAMES: { readonly [K in MetricName]?: string } = {
  rewardChosen: 'rewards/chosen',
  rewardRejected: 'rewards/rejected',
  rewardMargin: 'rewards/margins',
  implicitAccuracy: 'rewards/accuracies',
};

/** Metrics as flat log entries, rewards under TRL's names (`rewards/chosen`, `rewards/rejected`, `rewards/margins`, `rewards/accuracies`). */
export function logEntries(metrics: Metrics): Record<string, number> {
  return Object.fromEntries(METRICS.map((name) => [LOG_NAMES[name] ?? name, metrics[name]]));
}
