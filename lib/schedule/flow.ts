/** Noise levels of rectified-flow schedules (SD3, FLUX, Wan2.1): real timesteps in (0, T], σ = t / T after the shift. */

import { checkNumberList, failValue } from '../native/validate.js';
import { type FlowLadder, type FlowLadderSpec, flowLadder, shifted, unshifted } from './flow-ladder.js';
import {
  failTimestep,
  jacobian,
  type NoiseLevels,
  type PredictionType,
  type SamplerLadder,
  type TransitionRule,
  transitionWeight,
} from './levels.js';

/** `v_prediction` is missing because x̂_0 = a x_t - s v holds only where a² + s² = 1. */
export const FLOW_PREDICTIONS: readonly PredictionType[] = ['flow_prediction', 'epsilon', 'sample'];

/** An unshifted time below this counts as 0: n steps of 1/n do not add up to 1 exactly. */
const CLEAN = 1e-9;

/** The smallest unshifted time that is drawn: 0 itself is no timestep. */
const SMALLEST_DRAW = 2 ** -53;

export interface FlowLevelsOptions {
  readonly trainSteps: number;
  readonly shift: number;
  readonly predictionType: PredictionType;
  readonly inferenceSteps: number;
  readonly rule: TransitionRule;
  /** How the sampler's ladder is laid, or the timesteps it visits. */
  readonly ladder: FlowLadderSpec | readonly number[];
  /** t = 0 is noise and T is data: σ = 1 - t/T, and timesteps are in [0, T). */
  readonly inverted: boolean;
}

export class FlowLevels implements NoiseLevels {
  readonly family = 'flow';
  readonly trainSteps: number;
  readonly shift: number;
  readonly inverted: boolean;
  readonly #count: number;
  readonly #predictionType: PredictionType;
  readonly #rule: TransitionRule;
  /** Undefined for steps of 1/n. */
  readonly #ladder: FlowLadder | undefined;
  /** The ladder's unshifted times, falling, the end among them. */
  readonly #times: Float64Array | undefined;

  constructor({ trainSteps, shift, predictionType, inferenceSteps, rule, ladder, inverted }: FlowLevelsOptions) {
    this.trainSteps = trainSteps;
    this.shift = shift;
    this.inverted = inverted;
    this.#count = inferenceSteps;
    this.#predictionType = predictionType;
    this.#rule = rule;
    this.#ladder = isListed(ladder)
      ? { sigmas: Float64Array.from(ladder, (timestep) => this.#noise(timestep) / trainSteps), end: 0 }
      : flowLadder(ladder, shift, trainSteps, inferenceSteps);
    const levels = this.#ladder && [...this.#ladder.sigmas, this.#ladder.end];
    this.#times = levels && Float64Array.from(levels, (sigma) => unshifted(shift, sigma));
  }

  signal(timestep: number, argument: string, index?: number): number {
    this.#check(timestep, argument, index);
    // (T - t) / T and not 1 - t / T: the difference of the two timesteps is exact where they are close.
    return this.#clean(timestep) / this.trainSteps;
  }

  sigma(timestep: number, argument: string, index?: number): number {
    this.#check(timestep, argument, index);
    return this.#noise(timestep) / this.trainSteps;
  }

  previous(timestep: number, argument: string): number {
    this.#check(timestep, argument, undefined);
    return this.#timestep(this.#previousSigma(this.#noise(timestep) / this.trainSteps));
  }

  omegas(timesteps: ArrayLike<number>, argument: string): Float64Array {
    const list = checkNumberList(argument, timesteps);
    const out = new Float64Array(list.length);
    const [steps, shift, times, rule, type] = [
      this.trainSteps,
      this.shift,
      this.#times,
      this.#rule,
      this.#predictionType,
    ];
    const stride = 1 / this.#count;
    for (let i = 0; i < out.length; i++) {
      const timestep = list[i]!;
      this.#check(timestep, argument, i);
      const sigma = this.#noise(timestep) / steps;
      const signal = this.#clean(timestep) / steps;
      const time = unshifted(shift, sigma);
      const next = times === undefined ? time - stride : stepDown(times, time);
      const sigmaPrevious = next < CLEAN ? 0 : shifted(shift, next);
      const signalPrevious = 1 - sigmaPrevious;
      // 1-ρ = (a_p s_t - a_t s_p) / (a_p s_t), and the numerator is σ_t - σ_p because a = 1 - σ.
      const missing = (sigma - sigmaPrevious) / (signalPrevious * sigma);
      const gap = Math.min(1, missing * (2 - missing));
      // An inverted velocity only has the other sign, and ω its square.
      const derivative = jacobian(type, signal, sigma);
      out[i] = transitionWeight(signalPrevious, sigmaPrevious, sigma, gap, rule, derivative);
    }
    return out;
  }

  ladder(): SamplerLadder {
    const { sigmas, end } = this.#ladder ?? {
      sigmas: Float64Array.from({ length: this.#count }, (_, i) =>
        shifted(this.shift, (this.#count - i) / this.#count),
      ),
      end: 0,
    };
    const sigma = Float64Array.from([...sigmas, end]);
    return { timesteps: sigma.map((s) => this.#timestep(s)), signal: sigma.map((s) => 1 - s), sigma };
  }

  fromUnit(draws: Float64Array, range: readonly [number, number] | undefined): Float64Array {
    const steps = this.trainSteps;
    const [low, high] = range ?? [0, steps];
    const valid = low >= 0 && low <= high && high <= steps && (this.inverted ? low < steps : high > 0);
    if (!valid) {
      const end = this.inverted
        ? `0 <= low < ${steps}, low <= high <= ${steps}`
        : `0 <= low <= high, 0 < high <= ${steps}`;
      failValue('options.range', `two numbers [low, high] with ${end}`, `[${low}, ${high}]`);
    }
    const [clean, noisy] = this.inverted ? [high, low] : [low, high];
    const from = unshifted(this.shift, this.#noise(clean) / steps);
    const width = unshifted(this.shift, this.#noise(noisy) / steps) - from;
    const largest = this.inverted ? Math.min(high, steps * (1 - SMALLEST_DRAW)) : high;
    for (let i = 0; i < draws.length; i++) {
      const time = from + width * Math.max(draws[i]!, SMALLEST_DRAW);
      // Shifting back and forth rounds; the result must not leave the range for that.
      draws[i] = Math.min(Math.max(this.#timestep(shifted(this.shift, time)), low), largest);
    }
    return draws;
  }

  /** σ after one step of the sampler. */
  #previousSigma(sigma: number): number {
    const time = unshifted(this.shift, sigma);
    const next = this.#times === undefined ? time - 1 / this.#count : stepDown(this.#times, time);
    return next < CLEAN ? 0 : shifted(this.shift, next);
  }

  /** T σ. */
  #noise(timestep: number): number {
    return this.inverted ? this.trainSteps - timestep : timestep;
  }

  /** T (1 - σ). */
  #clean(timestep: number): number {
    return this.inverted ? timestep : this.trainSteps - timestep;
  }

  #timestep(sigma: number): number {
    return this.inverted ? (1 - sigma) * this.trainSteps : sigma * this.trainSteps;
  }

  #check(timestep: unknown, argument: string, index: number | undefined): void {
    if (typeof timestep === 'number') {
      if (this.inverted ? timestep >= 0 && timestep < this.trainSteps : timestep > 0 && timestep <= this.trainSteps)
        return;
    }
    const range = this.inverted ? `[0, ${this.trainSteps})` : `(0, ${this.trainSteps}]`;
    failTimestep(argument, index, `a number in ${range}`, timestep);
  }
}

function isListed(ladder: FlowLadderSpec | readonly number[]): ladder is readonly number[] {
  return Array.isArray(ladder);
}

/** One step down a falling list whose last entry is the end: a time between two entries goes as far between the next two. */
function stepDown(times: Float64Array, time: number): number {
  const end = times.length - 1;
  const last = end - 1;
  if (last === 0 || time <= times[last]!) return Math.min(time, times[end]!);
  if (time >= times[0]!) return time - (times[0]! - times[1]!);
  // A guess that is right for even ladders, and not far off for others.
  let i = Math.floor((last * (times[0]! - time)) / (times[0]! - times[last]!));
  while (times[i]! < time) i--;
  while (times[i + 1]! >= time) i++;
  const after = times[i + 1]!;
  return after - ((times[i]! - time) / (times[i]! - after)) * (after - times[i + 2]!);
}
