/** Preference pairs: a preferred digit (0 to 4, or odd ones) is chosen over another, and each side may come from a flawed source. */

import { createRandom, noise } from 'sdpo';
import type { PairDataset } from 'sdpo/trainer';
import { type Digits, image, PIXELS, rowsWhere } from './data.js';
import { PREFERENCES, type Preference } from './evaluation.js';
import type { Seeds } from './seeds.js';

/** What happens to an image on its way into a pair. */
interface Treatment {
  /** Moved by one pixel in a random direction. */
  shift?: boolean;
  /** Smoothed with the 3x3 binomial kernel. */
  blur?: boolean;
  /** Standard deviation of noise that is drawn once and stays in the pair. */
  noise?: number;
}

const NOISE = 0.3;

/** Where the images of a pair come from: the treatment of the preferred digits and that of the others. */
export const PAIR_SOURCES = {
  /** The preferred digits come from another, noisier source. */
  N1: { preferred: { noise: NOISE }, other: {} },
  /** Both clean. */
  A: { preferred: {}, other: {} },
  /** Both noisy. */
  N2: { preferred: { noise: NOISE }, other: { noise: NOISE } },
  /** The preferred ones clean, the others noisy. */
  C: { preferred: {}, other: { noise: NOISE } },
  /** Both shifted. */
  S: { preferred: { shift: true }, other: { shift: true } },
  /** Both shifted, the others also blurred. */
  E: { preferred: { shift: true }, other: { shift: true, blur: true } },
} satisfies Record<string, { preferred: Treatment; other: Treatment }>;

/** Rows down and columns to the right. */
type Direction = readonly [number, number];

const DIRECTIONS: readonly Direction[] = [
  [0, 1],
  [0, -1],
  [1, 0],
  [-1, 0],
];

export type PairSource = keyof typeof PAIR_SOURCES;

/** Images `[count, 64]` of both branches, row by row. */
export interface Pairs {
  readonly chosen: Float32Array;
  readonly rejected: Float32Array;
  readonly count: number;
}

/** The pairs as the trainer takes them; `name` says how they were made, so that a checkpoint knows them again. */
export function datasetOf(pairs: Pairs, name: string): PairDataset {
  const row = (images: Float32Array, index: number) => images.subarray(index * PIXELS, (index + 1) * PIXELS);
  return {
    kind: 'indexed',
    length: pairs.count,
    shape: [PIXELS],
    fingerprint: `digits ${name}, ${pairs.count} pairs`,
    get: (index) => ({ id: `${index}`, chosen: row(pairs.chosen, index), rejected: row(pairs.rejected, index) }),
  };
}

export interface PairOptions {
  source: PairSource;
  count: number;
  seeds: Seeds;
  /** Share of the pairs whose branches are swapped: wrong labels, as people give them. Default 0. */
  swapped?: number;
  /** Which digits are preferred. Default `low`. */
  preference?: Preference | undefined;
}

/** Draws pairs from real digits; the same options give the same pairs. */
export function makePairs(
  digits: Digits,
  { source, count, seeds, swapped = 0, preference = 'low' }: PairOptions,
): Pairs {
  const isPreferred = PREFERENCES[preference];
  const random = createRandom(seeds.draws);
  const treatments = PAIR_SOURCES[source] as { preferred: Treatment; other: Treatment };
  const preferredRows = rowsWhere(digits, isPreferred);
  const otherRows = rowsWhere(digits, (label) => !isPreferred(label));
  const pickOne = <T>(list: readonly T[]): T => list[Math.floor(random() * list.length)]!;
  const grain = noise(seeds.noise, 0, new Float32Array(2 * count * PIXELS));

  const chosen = new Float32Array(count * PIXELS);
  const rejected = new Float32Array(count * PIXELS);
  // Pairs are drawn independently, so which of them are swapped does not matter: the first ones are.
  const swappedCount = Math.round(swapped * count);
  for (let row = 0; row < count; row++) {
    const at = row * PIXELS;
    // Every source makes the same draws, so that one seed picks the same digits for all of them.
    const sides = [
      {
        pixels: image(digits, pickOne(preferredRows)),
        treatment: treatments.preferred,
        direction: pickOne(DIRECTIONS),
      },
      { pixels: image(digits, pickOne(otherRows)), treatment: treatments.other, direction: pickOne(DIRECTIONS) },
    ];
    const branches = row < swappedCount ? [rejected, chosen] : [chosen, rejected];
    sides.forEach(({ pixels, treatment, direction }, side) => {
      const from = (2 * row + side) * PIXELS;
      branches[side]!.set(treat(pixels, treatment, direction, grain.subarray(from, from + PIXELS)), at);
    });
  }
  return { chosen, rejected, count };
}

const BINOMIAL = [0.25, 0.5, 0.25];
const SIDE = 8;
const PAPER = -1;

function treat(pixels: Float32Array, treatment: Treatment, [dy, dx]: Direction, grain: Float32Array): Float32Array {
  let out = pixels;
  if (treatment.shift) {
    const source = out;
    out = mapPixels((y, x) => pixelAt(source, y - dy, x - dx));
  }
  if (treatment.blur) {
    const source = out;
    out = mapPixels((y, x) => {
      let sum = 0;
      for (let i = -1; i <= 1; i++) {
        for (let j = -1; j <= 1; j++) sum += BINOMIAL[i + 1]! * BINOMIAL[j + 1]! * pixelAt(source, y + i, x + j);
      }
      return sum;
    });
  }
  const deviation = treatment.noise;
  return deviation === undefined ? out : out.map((value, i) => value + deviation * grain[i]!);
}

function mapPixels(value: (y: number, x: number) => number): Float32Array {
  return Float32Array.from({ length: PIXELS }, (_, i) => value(Math.floor(i / SIDE), i % SIDE));
}

/** Outside the image there is paper. */
function pixelAt(pixels: Float32Array, y: number, x: number): number {
  return y < 0 || y >= SIDE || x < 0 || x >= SIDE ? PAPER : pixels[y * SIDE + x]!;
}
