/** Ladders of samplers of variance-preserving schedules: which level one step leads to from any timestep of the table. */

import type { PowerTable } from './betas.js';
import { type Conversion, convertedLevels, roundHalfEven, type Spacing, spaced } from './ladder.js';
import type { SamplerLadder } from './levels.js';

/** ᾱ and 1-ᾱ of a level. */
export interface Power {
  readonly signal: number;
  readonly noise: number;
}

/** Where a step ends. */
export interface Landing extends Power {
  /** The timestep; below 0 behind the table. */
  readonly previous: number;
}

export interface TableLadder {
  step(timestep: number): Landing;
  /** The levels that the sampler visits. */
  visited(): SamplerLadder;
}

/** How a class lays its ladder; see docs/schedules.md. */
export interface TableLadderSpec {
  /**
   * `stride`: a step is ⌊T/n⌋ timesteps, wherever the class begins. `spaced`: from each of n timesteps to the next. `solver`: the same with the last of
   * n + 1 points left out. `consistency`: from a subset of `original` timesteps. `unclip`: evenly over all. `listed`: `timesteps`.
   */
  readonly kind: 'stride' | 'spaced' | 'solver' | 'consistency' | 'unclip' | 'listed';
  readonly spacing: Spacing;
  readonly offset: number;
  /** Timesteps are integers; otherwise levels between two of them are interpolated linearly in σ/a. */
  readonly rounded: boolean;
  /** Levels between a highest and a lowest σ/a in place of those of timesteps. */
  readonly conversion?: Conversion | 'log_linear' | undefined;
  readonly high?: number | undefined;
  readonly low?: number | undefined;
  /** Ends on the lowest level of the table, or on that of the conversion, in place of `final`. */
  readonly held: boolean;
  /** The timesteps above the first level with log(a/s) below this are left out. */
  readonly clip: number;
  /** Timesteps that a consistency model was distilled at. */
  readonly original?: number | undefined;
  readonly timesteps?: readonly number[] | undefined;
}

export const UNIFORM_TABLE: TableLadderSpec = {
  kind: 'stride',
  spacing: 'leading',
  offset: 0,
  rounded: true,
  held: false,
  clip: -Infinity,
};

/** @param final the level behind the last step, unless the spec holds the lowest one */
export function tableLadder(table: PowerTable, final: Power, spec: TableLadderSpec, count: number): TableLadder {
  const times = timestepsOf(table, spec, count);
  if (spec.conversion !== undefined) return convertedLadder(table, final, spec, times, count);
  const end = spec.held ? powerAt(table, 0) : final;
  const last = times.length - 1;
  const tail = last > 0 ? times[last - 1]! - times[last]! : 1;
  const ending = (previous: number): Landing => ({ previous: spec.held ? 0 : Math.min(previous, -1), ...end });
  const landing = (previous: number): Landing => {
    const at = spec.rounded ? Math.floor(previous + 0.5) : previous;
    return at < 0 ? ending(at) : { previous: at, ...powerAt(table, at) };
  };
  const stride = Math.floor(table.signal.length / count);
  return {
    step(timestep) {
      if (spec.kind === 'stride') return landing(timestep - stride);
      if (last === 0) return ending(timestep - table.signal.length);
      if (timestep <= times[last]!) return ending(timestep - tail);
      const i = timestep > times[0]! ? 0 : below(times, timestep);
      const here = times[i]! - times[i + 1]!;
      const next = timestep > times[0]! ? here : i + 2 <= last ? times[i + 1]! - times[i + 2]! : here;
      // With equal steps the difference is exact; else a timestep between two points goes as far between the next two.
      if (next === here) return landing(timestep - here);
      return landing(times[i + 1]! - ((times[i]! - timestep) / here) * next);
    },
    visited: () => ladderOf([...times, spec.held ? 0 : -1], [...Array.from(times, (t) => powerAt(table, t)), end]),
  };
}

function timestepsOf(table: PowerTable, spec: TableLadderSpec, count: number): Float64Array {
  const steps = table.signal.length;
  switch (spec.kind) {
    case 'listed':
      return Float64Array.from(spec.timesteps!);
    case 'consistency': {
      const original = spec.original!;
      const stride = Math.floor(steps / original);
      const place = original / count;
      return Float64Array.from({ length: count }, (_, i) => (original - Math.floor(i * place)) * stride - 1);
    }
    case 'unclip': {
      const stride = (steps - 1) / (count - 1);
      return Float64Array.from({ length: count }, (_, i) =>
        roundHalfEven(i === count - 1 ? 0 : (count - 1 - i) * stride),
      );
    }
    default: {
      const kept = keptTimesteps(table, spec.clip);
      const parts = spec.kind === 'solver' && spec.spacing !== 'trailing' ? count + 1 : count;
      return spaced(spec.spacing, kept, count, parts, steps / count, spec.offset, spec.rounded);
    }
  }
}

/** How many timesteps have log(a/s) >= clip. */
function keptTimesteps({ signal, noise }: PowerTable, clip: number): number {
  let kept = signal.length;
  while (kept > 1 && 0.5 * Math.log(signal[kept - 1]! / noise[kept - 1]!) < clip) kept--;
  return kept;
}

/** The last index of a falling list whose value is at least `value`; not the last of all. */
function below(list: Float64Array, value: number): number {
  let [low, high] = [0, list.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (list[middle]! >= value) low = middle;
    else high = middle;
  }
  return low;
}

/** The level of a timestep, between two of them interpolated linearly in σ/a. */
function powerAt(table: PowerTable, timestep: number): Power {
  const low = Math.min(Math.floor(timestep), table.signal.length - 1);
  if (low === timestep) return { signal: table.signal[low]!, noise: table.noise[low]! };
  const weight = timestep - low;
  return powerOf((1 - weight) * ratioAt(table, low) + weight * ratioAt(table, low + 1));
}

/** s/a, the σ of samplers that leave the data unscaled. */
function ratioAt({ signal, noise }: PowerTable, timestep: number): number {
  return Math.sqrt(noise[timestep]! / signal[timestep]!);
}

function powerOf(ratio: number): Power {
  const squared = ratio * ratio;
  return { signal: 1 / (1 + squared), noise: ratio > 1 ? 1 / (1 + 1 / squared) : squared / (1 + squared) };
}

/** Logarithms of levels that are no farther apart are those of the same level. */
const CLOSE = 1e-9;

/** A ladder whose levels are laid between two values of σ/a; between two of its points a step goes on evenly in the logarithm. */
function convertedLadder(
  table: PowerTable,
  final: Power,
  spec: TableLadderSpec,
  times: Float64Array,
  count: number,
): TableLadder {
  const ratios = Float64Array.from(table.signal, (_, t) => ratioAt(table, t));
  const solver = spec.kind === 'solver';
  const full = solver || spec.conversion === 'log_linear';
  const high = spec.high ?? (full ? ratios[ratios.length - 1]! : ratioOf(powerAt(table, times[0]!)));
  const low = spec.low ?? (full ? ratios[0]! : ratioOf(powerAt(table, times[times.length - 1]!)));
  // A log-linear ladder ends on the last of n + 1 points; the class's final level comes behind that.
  const levels =
    spec.conversion === 'log_linear'
      ? convertedLevels('exponential', high, low, count + 1)
      : convertedLevels(spec.conversion!, high, low, count);
  const points = levels.subarray(0, count);
  const last = count - 1;
  const lowest =
    spec.conversion === 'log_linear' ? levels[count]! : spec.held ? (solver ? points[last]! : ratios[0]!) : 0;
  const end = lowest > 0 ? powerOf(lowest) : final;
  const endTime = lowest > 0 ? timeOf(ratios, lowest) : -1;
  const logs = points.map(Math.log);
  return {
    step(timestep) {
      const log = Math.log(ratios[timestep]!);
      // Powers and logarithms of the ladder's lowest level round.
      if (last === 0 || log <= logs[last]! + CLOSE) return { previous: endTime, ...end };
      if (log > logs[0]!) return at(Math.exp(log - (logs[0]! - logs[1]!)));
      const i = below(logs, log);
      const rest = (logs[i]! - log) / (logs[i]! - logs[i + 1]!);
      if (i + 1 === last) return at(points[last]! + rest * (lowest - points[last]!));
      return at(Math.exp(logs[i + 1]! - rest * (logs[i + 1]! - logs[i + 2]!)));
    },
    visited: () =>
      ladderOf(
        [...Array.from(points, (ratio) => timeOf(ratios, ratio)), endTime],
        [...Array.from(points, powerOf), end],
      ),
  };

  function at(ratio: number): Landing {
    return { previous: timeOf(ratios, ratio), ...powerOf(ratio) };
  }
}

function ratioOf({ signal, noise }: Power): number {
  return Math.sqrt(noise / signal);
}

/** The timestep at which a table of rising σ/a has a value, by its logarithm; 0 or T-1 beyond the ends. */
function timeOf(ratios: Float64Array, ratio: number): number {
  const last = ratios.length - 1;
  if (!(ratio > ratios[0]!)) return 0;
  if (ratio >= ratios[last]!) return last;
  let [low, high] = [0, last];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (ratios[middle]! <= ratio) low = middle;
    else high = middle;
  }
  const [from, to] = [Math.log(ratios[low]!), Math.log(ratios[high]!)];
  return low + (Math.log(ratio) - from) / (to - from);
}

function ladderOf(timesteps: number[], powers: readonly Power[]): SamplerLadder {
  return {
    timesteps: Float64Array.from(timesteps),
    signal: Float64Array.from(powers, ({ signal }) => Math.sqrt(signal)),
    sigma: Float64Array.from(powers, ({ noise }) => Math.sqrt(noise)),
  };
}
