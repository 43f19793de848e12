/** Measures samples of a denoiser: do they satisfy the preference, and are they still digits? */

import { noise } from 'sdpo';
import { CLASSES, type Digits, image, PIXELS, rowsWhere } from './data.js';
import { sample } from './diffusion.js';
import type { Params } from './jax.js';
import { classify, mostProbable } from './judge.js';

/** Rules of a preference: the digits that each prefers over the others. */
export const PREFERENCES = {
  low: (label: number) => label <= 4,
  odd: (label: number) => label % 2 === 1,
} satisfies Record<string, (label: number) => boolean>;
export type Preference = keyof typeof PREFERENCES;

/** The digits that are preferred where nothing else is said. */
export const isPreferred = PREFERENCES.low;

/**
 * Seed of the noise that every evaluation starts from, whatever the seed of the run, so that results compare. The last seed there is: no
 * task of a run has it.
 */
const EVALUATION_SEED = 2n ** 64n - 1n;
const VALID_QUANTILE = 0.95;

export interface Evaluation {
  /** Mean of the judge's probability that the digit is one of the preferred ones. */
  reward: number;
  /** Share of samples whose nearest training digit is as near as those of 95 % of the test digits. */
  valid: number;
  /** Share of samples that are valid and show a preferred digit both to the judge and by their nearest training digit. */
  good: number;
  /** Share of the preferred training digits that are the nearest one of a good sample: falls where samples look alike. Grows with the number of samples. */
  coverage: number;
}

/** The same per sample, with the images `[count, 64]`. */
export interface EvaluatedSamples extends Evaluation {
  images: Float32Array;
  validRows: boolean[];
  goodRows: boolean[];
}

/** Evaluates denoisers against the real digits and a judge. */
export class Evaluator {
  readonly #train: Digits;
  readonly #judge: Params;
  readonly #start: Float32Array;
  readonly #isPreferred: (label: number) => boolean;
  /** Largest distance to the nearest training digit at which a sample counts as a digit. */
  readonly validDistance: number;

  /** Keeps `judge` without consuming it; draws the `count` starting points once, from starting point `first` on: other samples for choices than for reports. */
  constructor(
    digits: { train: Digits; test: Digits },
    judge: Params,
    count: number,
    first = 0,
    preference: Preference = 'low',
  ) {
    this.#isPreferred = PREFERENCES[preference];
    this.#train = digits.train;
    this.#judge = judge;
    this.#start = noise(EVALUATION_SEED, first * PIXELS, new Float32Array(count * PIXELS));
    const distances = Array.from(
      digits.test.labels.keys(),
      (row) => nearest(digits.train, image(digits.test, row)).distance,
    );
    this.validDistance = quantile(distances, VALID_QUANTILE);
  }

  /** Draws samples from the denoiser and measures them. Does not consume the parameters. */
  evaluate(params: Params): EvaluatedSamples {
    const images = sample(params, this.#start);
    const probabilities = classify(this.#judge, images);
    const seen = mostProbable(probabilities);
    const validRows: boolean[] = [];
    const goodRows: boolean[] = [];
    const covered = new Set<number>();
    let reward = 0;
    for (let row = 0; row < seen.length; row++) {
      for (let digit = 0; digit < CLASSES; digit++) {
        if (this.#isPreferred(digit)) reward += probabilities[row * CLASSES + digit]!;
      }
      const { distance, label, index } = nearest(this.#train, images.subarray(row * PIXELS, (row + 1) * PIXELS));
      const valid = distance <= this.validDistance;
      const good = valid && this.#isPreferred(seen[row]!) && this.#isPreferred(label);
      validRows.push(valid);
      goodRows.push(good);
      if (good) covered.add(index);
    }
    return {
      reward: reward / seen.length,
      valid: share(validRows),
      good: share(goodRows),
      coverage: covered.size / rowsWhere(this.#train, this.#isPreferred).length,
      images,
      validRows,
      goodRows,
    };
  }
}

/** The training digit at the smallest Euclidean distance from `pixels`. */
function nearest(train: Digits, pixels: Float32Array): { distance: number; label: number; index: number } {
  let best = Infinity;
  let index = -1;
  for (let row = 0; row < train.labels.length; row++) {
    let squared = 0;
    for (let i = 0; i < PIXELS; i++) squared += (pixels[i]! - train.images[row * PIXELS + i]!) ** 2;
    if (squared < best) {
      best = squared;
      index = row;
    }
  }
  return { distance: Math.sqrt(best), label: train.labels[index]!, index };
}

/** The value below which the share `q` of the values lies, by linear interpolation between order statistics. */
function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  const position = q * (sorted.length - 1);
  const low = Math.floor(position);
  const high = Math.min(low + 1, sorted.length - 1);
  return sorted[low]! + (position - low) * (sorted[high]! - sorted[low]!);
}

function share(rows: readonly boolean[]): number {
  return rows.filter(Boolean).length / rows.length;
}
