/** Statistics of the rows by timestep: where the weights are small, the mask bites, the models drift apart and the gradients are noisy. */

import { ResultBuffers, type Statistics } from '../loss/result.js';
import type { ROW_OUTPUT } from '../native/contract.js';
import { SdpoError } from '../native/errors.js';
import { binOf, timestepEdges } from './timestep-bins.js';

/** Statistics whose mean a bin keeps, and the columns of a result they are made of. */
const MEANS = {
  weightChosen: ['weightChosen'],
  weightRejected: ['weightRejected'],
  kept: ['mask'],
  clipped: ['clipped'],
  errorChosen: ['errorChosen'],
  errorRejected: ['errorRejected'],
  driftChosen: ['driftChosen'],
  driftRejected: ['driftRejected'],
  rewardMargin: ['rewardChosen', 'rewardRejected'],
} as const satisfies Record<string, readonly (keyof typeof ROW_OUTPUT)[]>;

type MeanName = keyof typeof MEANS;
const MEAN_NAMES = Object.keys(MEANS) as MeanName[];

/** What is known of one bin. @useDeclaredType */
export type BinStatistics = {
  readonly [K in MeanName | 'gradientNorm' | 'gradientNormMax' | 'gradientNormCv']: number;
} & {
  /** Rows that fell into the bin. */
  readonly rows: number;
};

interface Sums {
  rows: number;
  /** Sum and number of the finite entries of each statistic. */
  sum: number[];
  count: number[];
  gradients: { count: number; mean: number; squares: number; max: number };
}

/**
 * Collects row statistics in bins of equal width over the timesteps. Of each bin: means of the weights, of the share of rows kept, of the number of
 * weights the clip changed (0 … 2, for a pair weight 0 or 1), of the errors m, the drifts q and the reward margin; and mean, maximum and coefficient of variation
 * (standard deviation over mean) of the norm ‖∂L_row/∂u_θ‖ over both branches of a row. The norm comes from the moments (docs/mathematics.md):
 * ‖(2/D)(A d + B h)‖² = (4/D)(A² m + A B (δ + q) + B² q), so it costs nothing and is of the prediction, not of the parameters.
 */
export class TimestepBins {
  readonly count: number;
  readonly #edges: readonly number[];
  #bins: Sums[];

  /** @param top the largest timestep; bins divide [0, top]. */
  constructor(count: number, top: number) {
    this.count = count;
    this.#edges = timestepEdges({ trainSteps: top }, count);
    this.#bins = Array.from({ length: count }, emptySums);
  }

  /** Bin of a timestep. */
  indexOf(timestep: number): number {
    return binOf(this.#edges, timestep);
  }

  /**
   * @param result of the rows with these timesteps, with gradients
   * @param size D, elements of a row
   * @param denominator of the loss: the norms are those of a row's own loss
   */
  add(timesteps: ArrayLike<number>, result: Statistics, size: number, denominator: number): void {
    if (!(result instanceof ResultBuffers))
      throw new SdpoError('ERR_SDPO_INTERNAL', 'Not a result of a PreferenceLoss');
    const column = (name: keyof typeof ROW_OUTPUT) => ResultBuffers.column(result, name);
    const bins = Array.from(timesteps, (timestep) => this.#bins[this.indexOf(timestep)]!);
    for (const bin of bins) bin.rows++;
    MEAN_NAMES.forEach((name, i) => {
      const [of, less] = MEANS[name];
      const first = column(of);
      const second = less && column(less);
      for (let row = 0; row < bins.length; row++) {
        const value = second === undefined ? first[row]! : first[row]! - second[row]!;
        if (!Number.isFinite(value)) continue;
        bins[row]!.sum[i]! += value;
        bins[row]!.count[i]!++;
      }
    });
    const squares = new Float64Array(bins.length);
    for (const branch of ['Chosen', 'Rejected'] as const) {
      const [a, b, m] = [column(`a${branch}`), column(`b${branch}`), column(`error${branch}`)];
      const [delta, q] = [column(`delta${branch}`), column(`drift${branch}`)];
      for (let row = 0; row < bins.length; row++) {
        // Without B the drift may not exist.
        const withReference = b[row] === 0 ? 0 : b[row]! * (a[row]! * (delta[row]! + q[row]!) + b[row]! * q[row]!);
        squares[row]! += (4 / size) * (a[row]! ** 2 * m[row]! + withReference);
      }
    }
    for (let row = 0; row < bins.length; row++) {
      const norm = denominator * Math.sqrt(Math.max(0, squares[row]!));
      if (Number.isFinite(norm)) observe(bins[row]!.gradients, norm);
    }
  }

  /** One entry per bin, from small to large timesteps; NaN where nothing was seen. */
  statistics(): BinStatistics[] {
    return this.#bins.map(({ rows, sum, count, gradients }) => {
      const means = Object.fromEntries(MEAN_NAMES.map((name, i) => [name, sum[i]! / count[i]!])) as Record<
        MeanName,
        number
      >;
      const seen = gradients.count > 0;
      const deviation = Math.sqrt(gradients.squares / gradients.count);
      return {
        rows,
        ...means,
        gradientNorm: seen ? gradients.mean : NaN,
        gradientNormMax: seen ? gradients.max : NaN,
        gradientNormCv: deviation / gradients.mean,
      };
    });
  }

  /** The same as flat log entries `bins/<statistic>/<bin>`, without what was not seen. */
  entries(): Record<string, number> {
    const out: Record<string, number> = {};
    this.statistics().forEach((bin, index) => {
      for (const [name, value] of Object.entries(bin)) if (Number.isFinite(value)) out[`bins/${name}/${index}`] = value;
    });
    return out;
  }

  reset(): void {
    this.#bins = Array.from({ length: this.count }, emptySums);
  }

  /** Plain JSON for a checkpoint. */
  state(): unknown {
    return structuredClone(this.#bins);
  }

  load(state: unknown): void {
    if (!Array.isArray(state) || state.length !== this.count) {
      throw new SdpoError(
        'ERR_SDPO_RESUME',
        `Expected the state of ${this.count} timestep bins in the checkpoint, received none`,
      );
    }
    this.#bins = structuredClone(state) as Sums[];
  }
}

function emptySums(): Sums {
  const zeros = () => MEAN_NAMES.map(() => 0);
  return { rows: 0, sum: zeros(), count: zeros(), gradients: { count: 0, mean: 0, squares: 0, max: 0 } };
}

/** Welford's update: mean and sum of squared deviations. */
function observe(into: Sums['gradients'], value: number): void {
  into.count++;
  const before = value - into.mean;
  into.mean += before / into.count;
  into.squares += before * (value - into.mean);
  into.max = Math.max(into.max, value);
}
