/** Noise levels of rectified-flow schedules (SD3, FLUX, Wan2.1): real timesteps in (0, T], σ = t / T after the shift. */

import { checkNumberList, failValue } from '../native/validate.js';
import { failTimestep, jacobian, type NoiseLevels, type PredictionType, transitionWeight } from './levels.js';

/** `v_prediction` is missing because x̂_0 = a x_t - s v holds only where a² + s² = 1. */
export const FLOW_PREDICTIONS: readonly PredictionType[] = ['flow_prediction', 'epsilon', 'sample'];

/** An unshifted time below this counts as 0: n steps of 1/n do not add up to 1 exactly. */
const CLEAN = 1e-9;

/** The smallest unshifted time that is drawn: 0 itself is no timestep. */
const SMALLEST_DRAW = 2 ** -53;

export class FlowLevels implements NoiseLevels {
  readonly family = 'flow';
  readonly trainSteps: number;
  readonly shift: number;
  readonly #step: number;
  readonly #predictionType: PredictionType;
  readonly #eta: number;

  constructor(trainSteps: number, shift: number, predictionType: PredictionType, inferenceSteps: number, eta: number) {
    this.trainSteps = trainSteps;
    this.shift = shift;
    this.#step = 1 / inferenceSteps;
    this.#predictionType = predictionType;
    this.#eta = eta;
  }

  signal(timestep: number, argument: string, index?: number): number {
    this.#check(timestep, argument, index);
    // (T - t) / T and not 1 - t / T: the difference of the two timesteps is exact where they are close.
    return (this.trainSteps - timestep) / this.trainSteps;
  }

  sigma(timestep: number, argument: string, index?: number): number {
    this.#check(timestep, argument, index);
    return timestep / this.trainSteps;
  }

  previous(timestep: number, argument: string): number {
    this.#check(timestep, argument, undefined);
    return this.#previousSigma(timestep / this.trainSteps) * this.trainSteps;
  }

  omegas(timesteps: ArrayLike<number>, argument: string): Float64Array {
    const list = checkNumberList(argument, timesteps);
    const out = new Float64Array(list.length);
    const steps = this.trainSteps;
    for (let i = 0; i < out.length; i++) {
      const timestep = list[i];
      this.#check(timestep, argument, i);
      const sigma = timestep / steps;
      const signal = (steps - timestep) / steps;
      const sigmaPrevious = this.#previousSigma(sigma);
      const signalPrevious = 1 - sigmaPrevious;
      // 1-ρ = (a_p s_t - a_t s_p) / (a_p s_t), and the numerator is σ_t - σ_p because a = 1 - σ.
      const missing = (sigma - sigmaPrevious) / (signalPrevious * sigma);
      const gap = Math.min(1, missing * (2 - missing));
      const derivative = jacobian(this.#predictionType, signal, sigma);
      out[i] = transitionWeight(signalPrevious, sigmaPrevious, gap, this.#eta, derivative);
    }
    return out;
  }

  fromUnit(draws: Float64Array, range: readonly [number, number] | undefined): Float64Array {
    const steps = this.trainSteps;
    const [low, high] = range ?? [0, steps];
    if (!(low >= 0 && low <= high && high > 0 && high <= steps)) {
      failValue(
        'options.range',
        `two numbers [low, high] with 0 <= low <= high, 0 < high <= ${steps}`,
        `[${low}, ${high}]`,
      );
    }
    const from = this.#unshift(low / steps);
    const width = this.#unshift(high / steps) - from;
    for (let i = 0; i < draws.length; i++) {
      const time = from + width * Math.max(draws[i], SMALLEST_DRAW);
      // Shifting back and forth rounds; the result must not leave the range for that.
      draws[i] = Math.min(Math.max(this.#shifted(time) * steps, low), high);
    }
    return draws;
  }

  /** σ after one step of 1/n back in the unshifted time. */
  #previousSigma(sigma: number): number {
    const time = this.#unshift(sigma) - this.#step;
    return time < CLEAN ? 0 : this.#shifted(time);
  }

  /** σ = k τ / (1 + (k-1) τ). */
  #shifted(time: number): number {
    return (this.shift * time) / (1 + (this.shift - 1) * time);
  }

  /** τ = σ / (k - (k-1) σ), the inverse of the shift. */
  #unshift(sigma: number): number {
    return sigma / (this.shift - (this.shift - 1) * sigma);
  }

  #check(timestep: unknown, argument: string, index: number | undefined): void {
    if (typeof timestep === 'number' && timestep > 0 && timestep <= this.trainSteps) return;
    failTimestep(argument, index, `a number in (0, ${this.trainSteps}]`, timestep);
  }
}
