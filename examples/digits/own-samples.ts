/** Pairs of a model's own samples, ranked by the rule of the experiment: what is on-policy for that model, and off-policy for any other. */

import { createRandom, noise } from 'sdpo';
import { CLASSES, PIXELS } from './data.js';
import { sample } from './diffusion.js';
import { PREFERENCES, type Preference } from './evaluation.js';
import type { Params } from './jax.js';
import { classify } from './judge.js';
import type { Pairs } from './pairs.js';
import type { Seeds } from './seeds.js';

export interface OwnSampleOptions {
  model: Params;
  judge: Params;
  /** Images drawn from the model; each takes part in several pairs where there are more pairs. */
  images: number;
  pairs: number;
  seeds: Seeds;
  /** Share of the pairs whose branches are swapped. */
  swapped: number;
  /** Which digits are preferred. Default `low`. */
  preference?: Preference | undefined;
}

/** Draws images from the model and pairs them at random; the one with more of the judge's mass on the preferred digits is chosen. Consumes nothing. */
export function ownSamplePairs(options: OwnSampleOptions): Pairs {
  const { model, judge, images: count, pairs, seeds, swapped, preference = 'low' } = options;
  const images = sample(model, noise(seeds.noise, 0, new Float32Array(count * PIXELS)));
  const scores = rewardsOf(judge, images, PREFERENCES[preference]);
  const random = createRandom(seeds.draws);
  const pick = () => Math.floor(random() * count);
  const row = (index: number) => images.subarray(index * PIXELS, (index + 1) * PIXELS);
  const chosen = new Float32Array(pairs * PIXELS);
  const rejected = new Float32Array(pairs * PIXELS);
  const swappedCount = Math.round(swapped * pairs);
  for (let pair = 0; pair < pairs; pair++) {
    const first = pick();
    let second = pick();
    while (scores[second] === scores[first]) second = pick();
    const [better, worse] = scores[first]! > scores[second]! ? [first, second] : [second, first];
    const [winner, loser] = pair < swappedCount ? [worse, better] : [better, worse];
    chosen.set(row(winner), pair * PIXELS);
    rejected.set(row(loser), pair * PIXELS);
  }
  return { chosen, rejected, count: pairs };
}

/** The judge's mass on the preferred digits, of each image. */
function rewardsOf(judge: Params, images: Float32Array, isPreferred: (label: number) => boolean): Float64Array {
  const probabilities = classify(judge, images);
  return Float64Array.from({ length: images.length / PIXELS }, (_, row) => {
    let reward = 0;
    for (let digit = 0; digit < CLASSES; digit++)
      if (isPreferred(digit)) reward += probabilities[row * CLASSES + digit]!;
    return reward;
  });
}
