/** Every random choice of a training, as a function of the seed and of the position in the run: nothing has to be saved to go on exactly where it stopped. */

import { numbersPerDraw, type SampleTimestepsOptions } from '../schedule/sampling.js';
import type { NoiseSchedule } from '../schedule/schedule.js';
import { createRandom, noise, type Random } from '../tensor/noise.js';

export const SAMPLINGS = ['shuffle', 'replacement', 'sequential'] as const;
/** Order of the pairs: a new permutation for each pass over the data, independent draws, or the order of the data set. */
export type Sampling = (typeof SAMPLINGS)[number];

/** How timesteps are drawn, as `NoiseSchedule.sampleTimesteps` takes it; `round-robin` goes by the row's place in the run. */
export type TimestepSampling = Omit<SampleTimestepsOptions, 'random' | 'first'>;

export const TIMESTEP_SAMPLING: readonly (keyof TimestepSampling)[] = [
  ...(['distribution', 'range', 'mean', 'std', 'modeScale', 'steps', 'order'] as const),
];

/** Largest seed: each has its own few streams, and streams are numbered by safe integers. */
export const MAX_SEED = 2 ** 48 - 1;

const STREAMS = ['order', 'timesteps', 'sharedNoise', 'rejectedNoise'] as const;

/** Above every seed that is a number, so that a training shares nothing with what its caller draws, nor its validation with its updates. */
const STREAM_ORIGIN = { training: 1n << 63n, validation: 3n << 62n } as const;
type Use = keyof typeof STREAM_ORIGIN;

function streamOf(seed: number, name: (typeof STREAMS)[number], use: Use = 'training'): bigint {
  return STREAM_ORIGIN[use] + BigInt(seed) * BigInt(STREAMS.length) + BigInt(STREAMS.indexOf(name));
}

/** Timesteps of `count` rows, the first of which is row `first` of the whole run, or of the held-out pairs. */
export function drawTimesteps(
  schedule: NoiseSchedule,
  sampling: TimestepSampling,
  seed: number,
  first: number,
  count: number,
  use: Use = 'training',
): Float64Array {
  // As many numbers as each timestep takes, so that a row has its timestep whatever the parts its batch is computed in.
  const random = createRandom(streamOf(seed, 'timesteps', use), first * numbersPerDraw(sampling));
  return schedule.sampleTimesteps(count, { ...sampling, random, ...placeOf(sampling, first) });
}

/** What tells `round-robin` where row `first` of a run is. */
export function placeOf({ order }: TimestepSampling, first: number): { first?: number } {
  return order === 'round-robin' ? { first } : {};
}

/** A function that fills branches with the standard normals of rows of `size` elements from row `first` on; a rejected branch has its own where it is given. */
export function drawNoise(seed: number, first: number, size: number, use: Use = 'training') {
  return (chosen: Float32Array, rejected: Float32Array | undefined): void => {
    noise(streamOf(seed, 'sharedNoise', use), first * size, chosen);
    if (rejected !== undefined) noise(streamOf(seed, 'rejectedNoise', use), first * size, rejected);
  };
}

/** Tells which pair of a data set is taken at a position of the run. */
export class PairOrder {
  readonly #length: number;
  readonly #sampling: Sampling;
  readonly #seed: bigint;
  #random: Random;
  #epoch = -1;
  #permutation = new Uint32Array(0);

  constructor(length: number, sampling: Sampling, seed: number) {
    this.#length = length;
    this.#sampling = sampling;
    this.#seed = streamOf(seed, 'order');
    this.#random = createRandom(this.#seed);
  }

  at(position: number): number {
    const length = this.#length;
    switch (this.#sampling) {
      case 'sequential':
        return position % length;
      case 'replacement':
        if (this.#random.position !== position) this.#random = createRandom(this.#seed, position);
        return Math.floor(this.#random() * length);
      case 'shuffle': {
        const epoch = Math.floor(position / length);
        if (epoch !== this.#epoch) this.#shuffle(epoch);
        return this.#permutation[position % length]!;
      }
    }
  }

  /** Fisher and Yates's shuffle, with the numbers that belong to this pass. */
  #shuffle(epoch: number): void {
    const length = this.#length;
    const random = createRandom(this.#seed, epoch * length);
    const permutation = Uint32Array.from({ length }, (_, i) => i);
    for (let i = length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [permutation[i], permutation[j]] = [permutation[j]!, permutation[i]!];
    }
    this.#permutation = permutation;
    this.#epoch = epoch;
  }
}
