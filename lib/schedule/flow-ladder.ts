/** Ladders of samplers of flows: the noise levels that a class, or a pipeline with sigmas of its own, descends. */

import { failValue } from '../native/validate.js';
import { type Conversion, convertedLevels, evenly } from './ladder.js';

/** How a ladder is laid; see docs/schedules.md. */
export interface FlowLadderSpec {
  /**
   * Times before the shift. `uniform`: 1, 1 - 1/n, …, 1/n. `flow-match`: from 1 to the lowest of the training, evenly. `unipc`: n steps from 1 to 1/T
   * without the last point. `dpm`: n steps from 1 - 1/T to 0 without the last. `minimax`: n - 1 steps from 1 to 0. `linear-quadratic`: see `LADDERS`.
   */
  readonly base: 'uniform' | 'flow-match' | 'unipc' | 'dpm' | 'minimax' | 'linear-quadratic';
  /** The shift that the lowest time of `flow-match` has had before. */
  readonly lowShift: number;
  /** The shifted levels are stretched so that the last is this; 0: not. */
  readonly terminal: number;
  readonly conversion?: Conversion | undefined;
  /** Bounds of a conversion in place of the ladder's own ends. */
  readonly high?: number | undefined;
  readonly low?: number | undefined;
  /** Bounds of a conversion in σ/a (UniPC), from which a level is σ/a / (1 + σ/a). */
  readonly ratios?: { readonly high: number; readonly low: number };
  /** A first level of 1 is lowered by 10⁻⁶, since the class takes the logarithm of a. */
  readonly belowOne?: boolean | undefined;
  /** Where the last step ends: a level, or the last one visited. */
  readonly end: number | 'last';
}

export const UNIFORM_FLOW: FlowLadderSpec = { base: 'uniform', lowShift: 1, terminal: 0, end: 0 };

/** n falling levels, and the one that the last step ends on. */
export interface FlowLadder {
  readonly sigmas: Float64Array;
  readonly end: number;
}

/** σ = k τ / (1 + (k-1) τ). */
export function shifted(shift: number, time: number): number {
  return (shift * time) / (1 + (shift - 1) * time);
}

/** τ = σ / (k - (k-1) σ), the inverse of the shift. */
export function unshifted(shift: number, sigma: number): number {
  return sigma / (shift - (shift - 1) * sigma);
}

/** The ladder of a spec; undefined where it is the plain one of steps of 1/n, which needs no list. */
export function flowLadder(
  spec: FlowLadderSpec,
  shift: number,
  trainSteps: number,
  count: number,
): FlowLadder | undefined {
  const { base, terminal, conversion, ratios } = spec;
  if (base === 'uniform' && terminal === 0 && conversion === undefined && !spec.belowOne && spec.end === 0) {
    return undefined;
  }
  let sigmas: Float64Array = times(spec, trainSteps, count).map((time) => shifted(shift, time));
  if (terminal !== 0) {
    const last = 1 - sigmas[sigmas.length - 1]!;
    if (last === 0) failValue('options.inferenceSteps', 'at least 2 with config.shift_terminal', count);
    const scale = last / (1 - terminal);
    sigmas = sigmas.map((sigma) => 1 - (1 - sigma) / scale);
  }
  if (ratios !== undefined) {
    sigmas = convertedLevels(conversion!, ratios.high, ratios.low, count).map((ratio) => ratio / (1 + ratio));
  } else if (conversion !== undefined) {
    sigmas = convertedLevels(conversion, spec.high ?? sigmas[0]!, spec.low ?? sigmas.at(-1)!, count);
  } else if (spec.belowOne && Math.abs(sigmas[0]! - 1) < 1e-6) {
    sigmas[0]! -= 1e-6;
  }
  return { sigmas, end: spec.end === 'last' ? sigmas[sigmas.length - 1]! : spec.end };
}

function times({ base, lowShift }: FlowLadderSpec, trainSteps: number, count: number): Float64Array {
  const by = (read: (i: number) => number, length = count) => Float64Array.from({ length }, (_, i) => read(i));
  const lowest = 1 / trainSteps;
  switch (base) {
    case 'uniform':
      return by((i) => (count - i) / count);
    case 'flow-match':
      return evenly(1, shifted(lowShift, lowest), count);
    case 'unipc':
      return by((i) => 1 + (i / count) * (lowest - 1));
    case 'dpm':
      return by((i) => (1 - lowest) * ((count - i) / count));
    case 'minimax':
      if (count < 2) failValue('options.inferenceSteps', 'an integer >= 2 for a MiniMaxH3Scheduler', count);
      return by((i) => (count - 1 - i) / (count - 1), count - 1);
    case 'linear-quadratic':
      return linearQuadratic(count);
  }
}

/** The noise that the linear half of a linear-quadratic ladder covers. */
const LINEAR_PART = 0.025;

/** 1 - x, where x rises evenly to 0.025 over the first half of the steps and from there on a parabola of the same slope to 1. */
function linearQuadratic(count: number): Float64Array {
  const linear = Math.floor(count / 2);
  if (linear === 0) return Float64Array.of(1);
  const rest = count - linear;
  const slope = LINEAR_PART / linear;
  const curvature = (1 - LINEAR_PART - slope * rest) / rest ** 2;
  return Float64Array.from({ length: count }, (_, i) => {
    const beyond = Math.max(0, i - linear);
    return 1 - (i * slope + curvature * beyond ** 2);
  });
}
