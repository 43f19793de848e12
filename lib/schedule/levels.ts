/** What a family of noise schedules has to answer, and the formulas that hold for every family. */

import { failType, failValue } from '../native/validate.js';

/** Parametrisations of the model's output; see {@link targetCoefficients} for what each of them stands for. */
export const PREDICTION_TYPES = ['epsilon', 'v_prediction', 'sample', 'flow_prediction'] as const;
export type PredictionType = (typeof PREDICTION_TYPES)[number];

export type ScheduleFamily = 'variance-preserving' | 'flow';

/** One step of the sampler's reverse process. */
export interface Transition {
  /**
   * The timestep it ends on, in the units of the schedule's timesteps: below 0 (variance preserving: after the last table
   * entry) or 0 (flow) for the last transition.
   */
  previous: number;
  /** The weight ω_t of docs/schedules.md, per unit of mean squared prediction error; Infinity where the transition has no density. */
  omega: number;
}

/** The noise levels of one family; arguments are named so that an error can say which of the caller's values is wrong. */
export interface NoiseLevels {
  readonly family: ScheduleFamily;
  readonly trainSteps: number;
  /** Factor of the timestep shift; 1 where timesteps are not shifted. */
  readonly shift: number;
  /** a_t of x_t = a_t x_0 + s_t ε; `index` is the timestep's place in the list `argument`. */
  signal(timestep: number, argument: string, index?: number): number;
  /** s_t of x_t = a_t x_0 + s_t ε. */
  sigma(timestep: number, argument: string, index?: number): number;
  previous(timestep: number, argument: string): number;
  /** ω of every entry, as a new array. */
  omegas(timesteps: ArrayLike<number>, argument: string): Float64Array;
  /** Maps draws u in [0, 1] to timesteps of the range [low, high], in place; see `NoiseSchedule.sampleTimesteps`. */
  fromUnit(draws: Float64Array, range: readonly [number, number] | undefined): Float64Array;
}

/**
 * ∂x̂_0/∂u, the factor between a prediction error and the error of the x_0 it implies; infinite for `epsilon` where nothing of x_0 is
 * left in x_t.
 */
export function jacobian(predictionType: PredictionType, signal: number, sigma: number): number {
  switch (predictionType) {
    case 'epsilon':
      return -sigma / signal;
    case 'sample':
      return 1;
    default:
      return -sigma;
  }
}

/** Coefficients (on x_0, on ε) of what the model is trained to predict. */
export function targetCoefficients(predictionType: PredictionType, signal: number, sigma: number): [number, number] {
  switch (predictionType) {
    case 'epsilon':
      return [0, 1];
    case 'v_prediction':
      return [-sigma, signal];
    case 'sample':
      return [1, 0];
    case 'flow_prediction':
      return [-1, 1];
  }
}

/**
 * The weight ω_t of a transition from noise level t to p of the DDIM family with stochasticity η (arXiv 2010.02502, equation 16;
 * η = 1 is the posterior of DDPM, arXiv 2006.11239, equation 7). With C_0 = ∂ mean / ∂ x_0 and the transition's variance σ²,
 *
 *     ω_t = C_0² (∂x̂_0/∂u)² / (2σ²)
 *         = SNR_p (1-ρ²) (1+η²ρ²)² / (2η² (1 + ρ √(1-η²(1-ρ²)))²) · (∂x̂_0/∂u)²,        ρ² = SNR_t / SNR_p
 *
 * The second form has no difference of nearly equal numbers except 1-ρ², which the caller therefore passes in whatever form is exact
 * for its family.
 *
 * @param signalPrevious a_p
 * @param sigmaPrevious s_p; 0 means that the transition ends on clean data, where there is no density and ω is Infinity
 * @param gap 1-ρ², in [0, 1]; 0 means that the transition does nothing, and ω is 0
 * @param derivative ∂x̂_0/∂u at t
 */
export function transitionWeight(
  signalPrevious: number,
  sigmaPrevious: number,
  gap: number,
  eta: number,
  derivative: number,
): number {
  // Tested before any arithmetic: the products below would be ∞·0 for these.
  if (sigmaPrevious === 0 || !Number.isFinite(derivative)) return Infinity;
  const ratio = signalPrevious / sigmaPrevious;
  const scale = ratio * ratio * gap * derivative * derivative;
  if (eta === 1) return scale / 2;
  const variance = eta * eta;
  const rho2 = 1 - gap;
  const numerator = 1 + variance * rho2;
  const denominator = eta * (1 + Math.sqrt(rho2 * (1 - variance * gap)));
  const factor = numerator / denominator;
  return (scale * factor * factor) / 2;
}

/** Reports the entry `index` of a list of timesteps, or the single timestep when there is no index. */
export function failTimestep(argument: string, index: number | undefined, expected: string, received: unknown): never {
  const name = index === undefined ? argument : `${argument}[${index}]`;
  if (typeof received !== 'number') failType(name, expected, received);
  failValue(name, expected, received);
}
