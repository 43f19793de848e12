/** Noise levels of variance-preserving schedules (DDPM, DDIM, CogVideoX): integer timesteps, everything read from tables. */

import { checkNumberList, failValue } from '../native/validate.js';
import type { PowerTable } from './betas.js';
import {
  failTimestep,
  jacobian,
  type NoiseLevels,
  type PredictionType,
  type SamplerLadder,
  type TransitionRule,
  transitionWeight,
} from './levels.js';
import type { TableLadder } from './table-ladder.js';

export const VARIANCE_PRESERVING_PREDICTIONS: readonly PredictionType[] = ['epsilon', 'v_prediction', 'sample'];

export class VariancePreservingLevels implements NoiseLevels {
  readonly family = 'variance-preserving';
  readonly shift = 1;
  readonly trainSteps: number;
  readonly inverted = false;
  readonly #signal: Float64Array;
  readonly #sigma: Float64Array;
  readonly #omega: Float64Array;
  readonly #previous: Float64Array;
  readonly #ladder: TableLadder;

  /** @param powers ᾱ_t and 1-ᾱ_t for t = 0 … T-1, ᾱ non-increasing */
  constructor(powers: PowerTable, ladder: TableLadder, predictionType: PredictionType, rule: TransitionRule) {
    const steps = powers.signal.length;
    this.trainSteps = steps;
    this.#ladder = ladder;
    this.#signal = powers.signal.map(Math.sqrt);
    this.#sigma = powers.noise.map(Math.sqrt);
    this.#omega = new Float64Array(steps);
    this.#previous = new Float64Array(steps);
    for (let t = 0; t < steps; t++) {
      const { previous, signal, noise } = ladder.step(t);
      this.#previous[t] = previous;
      // 1-ρ² = (ᾱ_p - ᾱ_t) / (ᾱ_p (1-ᾱ_t)). The difference is taken where the two numbers are small, so that it keeps its digits.
      const difference = signal > 0.5 ? powers.noise[t]! - noise : signal - powers.signal[t]!;
      const gap = difference <= 0 ? 0 : Math.min(1, difference / (signal * powers.noise[t]!));
      const derivative = jacobian(predictionType, this.#signal[t]!, this.#sigma[t]!);
      const [a, s] = [Math.sqrt(signal), Math.sqrt(noise)];
      this.#omega[t] = transitionWeight(a, s, this.#sigma[t]!, gap, rule, derivative);
    }
  }

  signal(timestep: number, argument: string, index?: number): number {
    return this.#entry(this.#signal, timestep, argument, index);
  }

  sigma(timestep: number, argument: string, index?: number): number {
    return this.#entry(this.#sigma, timestep, argument, index);
  }

  previous(timestep: number, argument: string): number {
    return this.#entry(this.#previous, timestep, argument);
  }

  omegas(timesteps: ArrayLike<number>, argument: string): Float64Array {
    const list = checkNumberList(argument, timesteps);
    const out = new Float64Array(list.length);
    const table = this.#omega;
    for (let i = 0; i < out.length; i++) {
      out[i] = this.#entry(table, list[i]!, argument, i);
    }
    return out;
  }

  ladder(): SamplerLadder {
    return this.#ladder.visited();
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
    for (let i = 0; i < draws.length; i++) draws[i] = low + Math.min(Math.floor(draws[i]! * count), count - 1);
    return draws;
  }

  #entry(table: Float64Array, timestep: number, argument: string, index?: number): number {
    // A typed array has no entry for anything but its integer indices, so one comparison is the whole check of a number.
    const entry = typeof timestep === 'number' ? table[timestep] : undefined;
    if (entry === undefined) failTimestep(argument, index, `an integer between 0 and ${this.trainSteps - 1}`, timestep);
    return entry;
  }
}
