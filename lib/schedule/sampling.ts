/** Draws training timesteps: uniform or logit-normal numbers in [0, 1], which a family of schedules maps to its timesteps. */

import {
  checkInteger,
  checkNumber,
  checkNumberAbove,
  checkOneOf,
  checkOptions,
  failType,
  failValue,
} from '../native/validate.js';

export const TIMESTEP_DISTRIBUTIONS = ['uniform', 'logit-normal'] as const;
export type TimestepDistribution = (typeof TIMESTEP_DISTRIBUTIONS)[number];

export interface SampleTimestepsOptions {
  /** Default `uniform`. `logit-normal` is the logistic function of a normal number (arXiv 2403.03206, section 3.1). */
  distribution?: TimestepDistribution;
  /**
   * Timesteps to draw from, both ends included, in the units of the schedule's timesteps; default all. Flow: the ends are mapped back to the
   * unshifted τ and τ is drawn between them; an end of 0 stays excluded. The distribution is stretched over the range, not cut off at it.
   */
  range?: readonly [low: number, high: number];
  /** Uniform numbers in [0, 1), as `Math.random` or `createRandom(seed)` give them: one is taken per timestep, two for `logit-normal`. */
  random: () => number;
  /** Mean of the normal number, default 0; above 0 draws more noise. `logit-normal` only. */
  mean?: number;
  /** Standard deviation of the normal number, default 1. `logit-normal` only. */
  std?: number;
}

/** Draws in [0, 1] and the checked range, for `NoiseLevels.fromUnit`. */
export function drawUnit(
  count: number,
  options: SampleTimestepsOptions,
): { draws: Float64Array; range: readonly [number, number] | undefined } {
  checkInteger('count', count, 0);
  checkOptions('options', options, ['distribution', 'range', 'random', 'mean', 'std']);
  const { distribution = 'uniform', range, random, mean, std } = options;
  checkOneOf('options.distribution', distribution, TIMESTEP_DISTRIBUTIONS);
  if (typeof random !== 'function') failType('options.random', 'a function that returns numbers in [0, 1)', random);
  if (range !== undefined) checkRange(range);

  const draws = new Float64Array(count);
  if (distribution === 'uniform') {
    for (const [name, value] of Object.entries({ mean, std })) {
      if (value !== undefined) {
        failValue(`options.${name}`, "absent with distribution 'uniform'", value, 'ERR_SDPO_INVALID_OPTION');
      }
    }
    for (let i = 0; i < count; i++) draws[i] = unit(random);
  } else {
    const center = checkNumber('options.mean', mean ?? 0);
    const spread = checkNumberAbove('options.std', std ?? 1, 0);
    for (let i = 0; i < count; i++) draws[i] = 1 / (1 + Math.exp(-(center + spread * normal(random))));
  }
  return { draws, range };
}

function checkRange(range: unknown): void {
  const expected = 'two numbers [low, high]';
  if (!Array.isArray(range)) failType('options.range', expected, range);
  if (range.length !== 2) failValue('options.range', expected, range, 'ERR_SDPO_INVALID_LENGTH');
  range.forEach((end, i) => {
    checkNumber(`options.range[${i}]`, end);
  });
}

function unit(random: () => number): number {
  const value: unknown = random();
  if (typeof value !== 'number') failType('the result of options.random()', 'a number in [0, 1)', value);
  if (!(value >= 0 && value < 1)) failValue('the result of options.random()', 'a number in [0, 1)', value);
  return value;
}

/** Box and Muller's transform; 1 - u keeps the logarithm's argument above 0. */
function normal(random: () => number): number {
  const radius = Math.sqrt(-2 * Math.log(1 - unit(random)));
  return radius * Math.cos(2 * Math.PI * unit(random));
}
