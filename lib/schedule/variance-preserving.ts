/** Noise levels of variance-preserving schedules (DDPM, DDIM, CogVideoX): integer timesteps, everything read from tables. */

import { checkNumberList, failValue } from '../native/validate.js';
import type { PowerTable } from './betas.js';
import { failTimestep, jacobian, type NoiseLevels, type PredictionType, transitionWeight } from './levels.js';

export const VARIANCE_PRESERVING_PREDICTIONS: readonly PredictionType[] = ['epsilon', 'v_prediction', 'sample'];

export class VariancePreservingLevels implements NoiseLevels {
  readonly family = 'variance-preserving';
  readonly shift = 1;
  readonly trainSteps: number;
  readonly #stride: number;
  readonly #signal: Float64Array;
  readonly #sigma: Float64Array;
  readonly #omega: Float64Array;

  /**
   * @param powers ᾱ_t and 1-ᾱ_t for t = 0 … T-1, ᾱ non-increasing
   * @param final the same two numbers behind the last transition, where p < 0
   */
  constructor(
    powers: PowerTable,
    final: { signal: number; noise: number },
    predictionType: PredictionType,
    inferenceSteps: number,
    eta: number,
  ) {
    const steps = powers.signal.length;
    this.trainSteps = steps;
    this.#stride = Math.floor(steps / inferenceSteps);
    this.#signal = powers.signal.map(Math.sqrt);
    this.#sigma = powers.noise.map(Math.sqrt);
    this.#omega = new Float64Array(steps);
    for (let t = 0; t < steps; t++) {
      const p = t - this.#stride;
      const signalPower = p < 0 ? final.signal : powers.signal[p];
      const noisePower = p < 0 ? final.noise : powers.noise[p];
      // 1-ρ² = (ᾱ_p - ᾱ_t) / (ᾱ_p (1-ᾱ_t)). The difference is taken where the two numbers are small, so that it keeps its digits.
      const difference = signalPower > 0.5 ? powers.noise[t] - noisePower : signalPower - powers.signal[t];
      const gap = difference <= 0 ? 0 : Math.min(1, difference / (signalPower * powers.noise[t]));
      const derivative = jacobian(predictionType, this.#signal[t], this.#sigma[t]);
      this.#omega[t] = transitionWeight(Math.sqrt(signalPower), Math.sqrt(noisePower), gap, eta, derivative);
    }
  }

  signal(timestep: number, argument: string, index?: number): number {
    return this.#entry(this.#signal, timestep, argument, index);
  }

  sigma(timestep: number, argument: string, index?: number): number {
    return this.#entry(this.#sigma, timestep, argument, index);
  }

  previous(timestep: number, argument: string): number {
    this.#entry(this.#signal, timestep, argument);
    return timestep - this.#stride;
  }

  omegas(timesteps: ArrayLike<number>, argument: string): Float64Array {
    const list = checkNumberList(argument, timesteps);
    const out = new Float64Array(list.length);
    const table = this.#omega;
    for (let i = 0; i < out.length; i++) {
      out[i] = this.#entry(table, list[i], argument, i);
    }
    return out;
  }

  fromUnit(draws: Float64Array, range: readonly [number, number] | undefined): Float64Array {
    const [low, high] = range ?? [0, this.trainSteps - 1];
    if (!Number.isInteger(low) || !Number.isInteger(high) || low < 0 || high >= this.trainSteps || low > high) {
      failValue(
        'options.range',
        `two integers [low, high] with 0 <= low <= high <= ${this.trainSteps - 1}`,
        `[${low}, ${high}]`,
      );
    }
    const count = high - low + 1;
    // The minimum only matters for a draw that was rounded up to 1.
    for (let i = 0; i < draws.length; i++) draws[i] = low + Math.min(Math.floor(draws[i] * count), count - 1);
    return draws;
  }

  #entry(table: Float64Array, timestep: number, argument: string, index?: number): number {
    // A typed array has no entry for anything but its integer indices, so one comparison is the whole check of a number.
    const entry = typeof timestep === 'number' ? table[timestep] : undefined;
    if (entry === undefined) failTimestep(argument, index, `an integer between 0 and ${this.trainSteps - 1}`, timestep);
    return entry;
  }
}
