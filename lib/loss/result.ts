/** Results of a preference loss: per-row statistics, metrics and gradients, as views of the arrays the addon writes. */

import { METRIC_OFFSET, METRICS_LENGTH, ROW_OUTPUT, ROW_OUTPUT_COUNT } from '../native/contract.js';
import { METRICS, type MetricName, ROW_STATISTICS, type RowStatistic } from '../native/names.js';
import type { LatentArray } from '../tensor/operand.js';
import type { Tensor } from '../tensor/tensor.js';

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

/**
 * The arrays behind a result: allocated once, written by the addon, and written again when the result is passed as `into`. What names them is made
 * when it is first asked for: sixty objects take longer than a small call.
 */
export class ResultBuffers implements Statistics {
  loss = NaN;
  declare readonly rows: RowStatistics;
  declare readonly metrics: Metrics;
  declare readonly coefficients: Statistics['coefficients'];
  gradients: Gradients | undefined;
  #pending = false;
  readonly #rowOutputs: Float64Array;
  readonly #metrics: Float64Array;
  readonly #count: number;
  #rows: RowStatistics | undefined;
  #values: Metrics | undefined;
  #coefficients: Statistics['coefficients'] | undefined;

  constructor(count: number) {
    Object.defineProperty(this, 'rows', ResultBuffers.#rowsProperty);
    Object.defineProperty(this, 'metrics', ResultBuffers.#metricsProperty);
    Object.defineProperty(this, 'coefficients', ResultBuffers.#coefficientsProperty);
    this.#count = count;
    const bytes = Float64Array.BYTES_PER_ELEMENT;
    const length = ROW_OUTPUT_COUNT * count;
    // One block of memory for both: taking one is most of the cost.
    const buffer = new ArrayBuffer((length + METRICS_LENGTH) * bytes);
    this.#rowOutputs = new Float64Array(buffer, 0, length);
    this.#metrics = new Float64Array(buffer, length * bytes);
  }

  // Properties of its own, so that what spreads a result or takes the rest of one finds them.
  static readonly #rowsProperty = {
    enumerable: true,
    get(this: ResultBuffers): RowStatistics {
      if (this.#rows === undefined) {
        const rows = {} as { -readonly [K in RowStatistic]: Float64Array };
        for (const name of ROW_STATISTICS) rows[name] = this.#shown(name);
        this.#rows = rows;
      }
      return this.#rows;
    },
  };
  static readonly #metricsProperty = {
    enumerable: true,
    get(this: ResultBuffers): Metrics {
      this.#values ??= this.#readMetrics({} as Metrics);
      return this.#values;
    },
  };
  static readonly #coefficientsProperty = {
    enumerable: true,
    get(this: ResultBuffers): Statistics['coefficients'] {
      this.#coefficients ??= {
        chosen: { a: this.#shown('aChosen'), b: this.#shown('bChosen') },
        rejected: { a: this.#shown('aRejected'), b: this.#shown('bRejected') },
      };
      return this.#coefficients;
    },
  };

  /** @internal Whether an asynchronous call is writing these buffers. */
  get pending(): boolean {
    return this.#pending;
  }
  set pending(value: boolean) {
    this.#pending = value;
  }

  /** A column for the caller, who may transfer the buffer: the metrics are read from it before. */
  #shown(name: keyof typeof ROW_OUTPUT): Float64Array {
    void this.metrics;
    return this.#column(name);
  }

  #column(name: keyof typeof ROW_OUTPUT): Float64Array {
    const outputs = this.#rowOutputs;
    // Like subarray, which takes several times as long.
    const start = outputs.byteOffset + ROW_OUTPUT[name] * this.#count * outputs.BYTES_PER_ELEMENT;
    return new Float64Array(outputs.buffer, start, this.#count);
  }

  /** What `console.log` shows, in place of the word "Getter". By this name the declaration needs no types of Node. */
  [Symbol.for('nodejs.util.inspect.custom')](): object {
    const { loss, gradients, rows, metrics, coefficients } = this;
    return { loss, ...(gradients !== undefined && { gradients }), rows, metrics, coefficients };
  }

  /** Reads the loss and the metrics after a call. */
  finish(): this {
    this.loss = this.#metrics[0]!;
    if (this.#values !== undefined) this.#readMetrics(this.#values);
    return this;
  }

  #readMetrics(metrics: Metrics): Metrics {
    for (let i = 0; i < METRICS.length; i++) metrics[METRICS[i]!] = this.#metrics[METRIC_OFFSET + i]!;
    return metrics;
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
