/** Makes the rows that models are given out of pairs, timesteps and noise: for the updates of a training, and for a calibration that should see the same. */

import type { NoiseSchedule } from '../schedule/schedule.js';
import { checkPair, elementCount } from './data-pair.js';
import type { PreferencePair, TrainingRows } from './types.js';

/** Draws the noise of the rows into `chosen`, and into `rejected` where the branches do not share it; both flat [rows, ...shape]. */
type DrawNoise = (chosen: Float32Array, rejected: Float32Array | undefined) => void;

export interface RowParts<C> {
  readonly step: number;
  readonly part: number;
  /** As the data gave them; each gives as many rows, one after another, as there are timesteps for it. */
  readonly pairs: readonly PreferencePair<C>[];
  /** One per row. */
  readonly timesteps: Float64Array;
  readonly noise: 'shared' | 'independent';
  readonly draw: DrawNoise;
}

/** Noises pairs of one shape by one schedule. */
export class RowAssembler {
  readonly #schedule: NoiseSchedule;
  readonly #shape: readonly number[];
  /** Elements of a sample. */
  readonly size: number;
  /** Clean samples and noise, written again for each call: nobody else sees them. */
  #x0 = new Float32Array(0);
  #epsilon = new Float32Array(0);

  constructor(schedule: NoiseSchedule, shape: readonly number[]) {
    this.#schedule = schedule;
    this.#shape = shape;
    this.size = elementCount(shape);
  }

  /** @throws SdpoError `ERR_SDPO_DATA` for a pair that does not fit; whether all is finite is what the loss finds, in its one pass over the batch */
  assemble<C>({ step, part, pairs: given, timesteps, noise, draw }: RowParts<C>): TrainingRows<C> {
    const { size } = this;
    const pairs = given.map((pair) => checkPair<C>('a pair of the data', pair, size, 'propagate'));
    const rows = timesteps.length;
    const perPair = rows / pairs.length;
    const branch = rows * size;
    if (this.#x0.length !== 2 * branch) {
      this.#x0 = new Float32Array(2 * branch);
      this.#epsilon = new Float32Array(2 * branch);
    }
    // Both branches at once, chosen rows first, as the models take them.
    const [x0, epsilon] = [this.#x0, this.#epsilon];
    for (let row = 0; row < rows; row++) {
      const pair = pairs[Math.floor(row / perPair)]!;
      x0.set(pair.chosen, row * size);
      x0.set(pair.rejected, (rows + row) * size);
    }
    draw(epsilon.subarray(0, branch), noise === 'shared' ? undefined : epsilon.subarray(branch));
    if (noise === 'shared') epsilon.copyWithin(branch, 0, branch);
    const both = new Float64Array(2 * rows);
    both.set(timesteps, 0);
    both.set(timesteps, rows);
    const target = this.#schedule.target(x0, epsilon, both);
    const perRow = <T>(read: (pair: PreferencePair<C>) => T) =>
      Array.from({ length: rows }, (_, row) => read(pairs[Math.floor(row / perPair)]!));
    const conditions = perRow((pair) => pair.condition as C);
    return {
      step,
      part,
      rows,
      ids: perRow((pair) => pair.id),
      timesteps,
      inputs: {
        latents: this.#schedule.addNoise(x0, epsilon, both),
        shape: this.#shape,
        timesteps: both,
        conditions: [...conditions, ...conditions],
      },
      target: { chosen: target.subarray(0, branch), rejected: target.subarray(branch) },
      weights: Float64Array.from(perRow((pair) => pair.confidence ?? 1)),
    };
  }
}
