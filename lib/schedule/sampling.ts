/** Draws training timesteps: numbers in [0, 1], which a family of schedules maps to its timesteps, or entries of a fixed list. */

import {
  checkInteger,
  checkNumber,
  checkNumberAbove,
  checkNumbers,
  checkOneOf,
  checkOptions,
  failType,
  failValue,
} from '../native/validate.js';
import type { NoiseLevels } from './levels.js';

export const TIMESTEP_DISTRIBUTIONS = ['uniform', 'logit-normal', 'mode', 'cosmap'] as const;
/** How timesteps are drawn. @useDeclaredType */
export type TimestepDistribution = (typeof TIMESTEP_DISTRIBUTIONS)[number];

export const STEP_ORDERS = ['random', 'round-robin'] as const;
export type StepOrder = (typeof STEP_ORDERS)[number];

export interface SampleTimestepsOptions {
  /**
   * Density of the drawn τ, default `uniform`; the others are those of arXiv 2403.03206, section 3.1. `logit-normal`: the logistic function of a
   * normal number. `mode`: 1 - u - s (cos²(π u/2) - 1 + u) of a uniform u, more of the middle for a scale s above 0 and of the ends below. `cosmap`:
   * 1 - 1 / (tan(π u/2) + 1), the log SNR of the cosine schedule.
   */
  distribution?: TimestepDistribution | undefined;
  /**
   * Timesteps to draw from, both ends included, in the units of the schedule's timesteps; default all. Flow: the ends are mapped back to the
   * unshifted τ and τ is drawn between them; an end without noise stays excluded. The distribution is stretched over the range, not cut off at it.
   */
  range?: readonly [low: number, high: number] | undefined;
  /**
   * Uniform numbers in [0, 1), as `Math.random` or `createRandom(seed)` give them: one is taken per timestep, two for `logit-normal`, none for
   * `round-robin`, which alone can go without.
   */
  random?: (() => number) | undefined;
  /** Mean of the normal number, default 0; above 0 draws more noise. `logit-normal` only. */
  mean?: number | undefined;
  /** Standard deviation of the normal number, default 1. `logit-normal` only. */
  std?: number | undefined;
  /** s in [-1, 2/(π-2)], default 1.29. `mode` only. */
  modeScale?: number | undefined;
  /** A fixed list to draw from, as few-step and distilled models are trained on, in place of a distribution and range. */
  steps?: readonly number[] | undefined;
  /** Whether entries of `steps` are drawn independently (`random`, the default) or taken one after another. */
  order?: StepOrder | undefined;
  /** How many timesteps were taken before; entry `first` modulo the length comes next. `round-robin` only; default 0. */
  first?: number | undefined;
}

/** The options that one distribution has and others do not. */
export const PARAMETERS = { mean: 'logit-normal', std: 'logit-normal', modeScale: 'mode' } as const;

/** Beyond it the density of `mode` is negative somewhere. */
const MAX_MODE_SCALE = 2 / (Math.PI - 2);

/** Uniform numbers that one timestep takes, so that rows can be drawn by their place in a run. */
export function numbersPerDraw({ distribution, steps, order }: SampleTimestepsOptions): number {
  if (steps !== undefined) return order === 'round-robin' ? 0 : 1;
  return distribution === 'logit-normal' ? 2 : 1;
}

/** `count` timesteps of the levels. */
export function sampleTimesteps(levels: NoiseLevels, count: number, options: SampleTimestepsOptions): Float64Array {
  checkInteger('count', count, 0);
  options = checkOptions('options', options, NAMES);
  if (options.steps !== undefined) return fromSteps(levels, count, options);
  for (const name of ['order', 'first'] as const) refuse(name, options[name], 'absent without options.steps');
  const { distribution = 'uniform', range, random } = options;
  checkOneOf('options.distribution', distribution, TIMESTEP_DISTRIBUTIONS);
  if (typeof random !== 'function') failType('options.random', 'a function that returns numbers in [0, 1)', random);
  if (range !== undefined) checkRange(range);
  for (const [name, owner] of Object.entries(PARAMETERS)) {
    if (owner === distribution) continue;
    refuse(name, options[name as keyof typeof PARAMETERS], `absent with distribution '${distribution}'`);
  }
  const draw = drawer(distribution, options, random);
  return levels.fromUnit(
    Float64Array.from({ length: count }, () => draw()),
    range,
  );
}

const NAMES = ['distribution', 'range', 'random', 'mean', 'std', 'modeScale', 'steps', 'order', 'first'];

/** A function that gives numbers in [0, 1] of a distribution. */
function drawer(
  distribution: TimestepDistribution,
  options: SampleTimestepsOptions,
  random: () => number,
): () => number {
  switch (distribution) {
    case 'uniform':
      return () => unit(random);
    case 'logit-normal': {
      const center = checkNumber('options.mean', options.mean ?? 0);
      const spread = checkNumberAbove('options.std', options.std ?? 1, 0);
      return () => 1 / (1 + Math.exp(-(center + spread * normal(random))));
    }
    case 'mode': {
      const scale = checkNumber('options.modeScale', options.modeScale ?? 1.29, -1, MAX_MODE_SCALE);
      return () => {
        const u = unit(random);
        const away = Math.sin((Math.PI / 2) * u) ** 2; // 1 - cos², which keeps its digits near 0
        return Math.min(Math.max(1 - u - scale * (u - away), 0), 1);
      };
    }
    case 'cosmap':
      return () => {
        const tangent = Math.tan((Math.PI / 2) * unit(random));
        return tangent / (tangent + 1);
      };
  }
}

function fromSteps(levels: NoiseLevels, count: number, options: SampleTimestepsOptions): Float64Array {
  if (options.distribution !== 'uniform') refuse('distribution', options.distribution, 'absent with options.steps');
  for (const name of ['range', 'mean', 'std', 'modeScale'] as const) {
    refuse(name, options[name], 'absent with options.steps');
  }
  const steps = checkNumbers('options.steps', options.steps);
  const { length } = steps;
  if (length === 0) failValue('options.steps', 'a list of at least one timestep', steps, 'ERR_SDPO_INVALID_LENGTH');
  for (let i = 0; i < length; i++) levels.signal(steps[i]!, 'options.steps', i);
  const order = checkOneOf('options.order', options.order ?? 'random', STEP_ORDERS);
  if (order === 'round-robin') {
    const first = checkInteger('options.first', options.first ?? 0, 0);
    return Float64Array.from({ length: count }, (_, i) => steps[(first + i) % length]!);
  }
  refuse('first', options.first, "absent with order 'random'");
  const { random } = options;
  if (typeof random !== 'function') failType('options.random', 'a function that returns numbers in [0, 1)', random);
  return Float64Array.from({ length: count }, () => steps[Math.floor(unit(random) * length)]!);
}

function refuse(name: string, value: unknown, expected: string): void {
  if (value !== undefined) failValue(`options.${name}`, expected, value, 'ERR_SDPO_INVALID_OPTION');
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
