/** What a family of noise schedules has to answer, and the formulas that hold for every family. */

import { failType, failValue } from '../native/validate.js';

/** Parametrisations of the model's output; see {@link targetCoefficients} for what each of them stands for. */
export const PREDICTION_TYPES = ['epsilon', 'v_prediction', 'sample', 'flow_prediction'] as const;
/** What the model predicts. @useDeclaredType */
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

/**
 * How much noise a transition draws. `posterior`: η² times the variance of q(x_p | x_t, x_0), the DDIM family (η = 1: DDPM's `fixed_small`).
 * `fresh`: s_p², where the sampler noises its x̂_0 afresh (LCM, `stochastic_sampling` of FlowMatchEuler). `forward`: the variance
 * s_t² - (a_t/a_p)² s_p² of the step forward (DDPM's `fixed_large`).
 */
export const VARIANCES = ['posterior', 'fresh', 'forward'] as const;
/** σ² of the transitions of the sampler. @useDeclaredType */
export type TransitionVariance = (typeof VARIANCES)[number];

/** What decides the noise of a transition; `eta` belongs to `posterior`. */
export interface TransitionRule {
  readonly variance: TransitionVariance;
  readonly eta: number;
}

/** The levels that a sampler visits, in its order: n of them at which it calls the model, and the one it ends on. */
export interface SamplerLadder {
  /** n + 1 timesteps; below 0 (variance preserving) or clean data's 0 (flow; T where the config inverts it) for an end without noise. */
  timesteps: Float64Array;
  /** a at each of them. */
  signal: Float64Array;
  /** s at each of them. */
  sigma: Float64Array;
}

/** The noise levels of one family; arguments are named so that an error can say which of the caller's values is wrong. */
export interface NoiseLevels {
  readonly family: ScheduleFamily;
  readonly trainSteps: number;
  /** Factor of the timestep shift; 1 where timesteps are not shifted. */
  readonly shift: number;
  /** The model's time runs from noise at 0 to data at T, and its velocity points to the data (`invert_sigmas`). */
  readonly inverted: boolean;
  /** a_t of x_t = a_t x_0 + s_t ε; `index` is the timestep's place in the list `argument`. */
  signal(timestep: number, argument: string, index?: number): number;
  /** s_t of x_t = a_t x_0 + s_t ε. */
  sigma(timestep: number, argument: string, index?: number): number;
  previous(timestep: number, argument: string): number;
  /** ω of every entry, as a new array. */
  omegas(timesteps: ArrayLike<number>, argument: string): Float64Array;
  /** The levels that the sampler visits, as new arrays. */
  ladder(): SamplerLadder;
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

/** Coefficients (on x_0, on ε) of what the model is trained to predict; `inverted` velocities point from the noise to the data. */
export function targetCoefficients(
  predictionType: PredictionType,
  signal: number,
  sigma: number,
  inverted: boolean,
): [number, number] {
  switch (predictionType) {
    case 'epsilon':
      return [0, 1];
    case 'v_prediction':
      return [-sigma, signal];
    case 'sample':
      return [1, 0];
    case 'flow_prediction':
      return inverted ? [1, -1] : [-1, 1];
  }
}

/** A product, or the same of other factors where it is infinity times 0 with these: the noise level of a first step may be as small as numbers get. */
function finite(product: number, other: number): number {
  return Number.isNaN(product) ? other : product;
}

/**
 * The weight ω_t of a transition from noise level t to p. With C_0 = ∂ mean / ∂ x_0 and the transition's variance σ², ω_t = C_0² (∂x̂_0/∂u)² / (2σ²).
 * For the DDIM family with stochasticity η (arXiv 2010.02502, equation 16; η = 1 is the posterior of DDPM, arXiv 2006.11239, equation 7)
 *
 *     ω_t = SNR_p (1-ρ²) (1+η²ρ²)² / (2η² (1 + ρ √(1-η²(1-ρ²)))²) · (∂x̂_0/∂u)²,        ρ² = SNR_t / SNR_p
 *
 * which has no difference of nearly equal numbers except 1-ρ²; the caller therefore passes that in whatever form is exact for its family.
 * Noise drawn afresh has C_0 = a_p and σ = s_p, so ω_t = SNR_p (∂x̂_0/∂u)² / 2. The forward variance is s_t²/s_p² times the posterior's.
 *
 * @param signalPrevious a_p
 * @param sigmaPrevious s_p; 0 means that the transition ends on clean data, where there is no density and ω is Infinity
 * @param sigma s_t
 * @param gap 1-ρ², in [0, 1]; 0 means that the transition does nothing, and ω is 0 unless the noise is fresh
 * @param derivative ∂x̂_0/∂u at t
 */
export function transitionWeight(
  signalPrevious: number,
  sigmaPrevious: number,
  sigma: number,
  gap: number,
  { variance, eta }: TransitionRule,
  derivative: number,
): number {
  // Tested before any arithmetic: the products below would be ∞·0 for these.
  if (sigmaPrevious === 0 || !Number.isFinite(derivative)) return Infinity;
  const ratio = signalPrevious / sigmaPrevious;
  if (variance === 'fresh') return finite(ratio * ratio * derivative * derivative, (ratio * derivative) ** 2) / 2;
  if (variance === 'forward') {
    const forward = (signalPrevious * derivative) / sigma;
    return (forward * forward * gap) / 2;
  }
  const scale = finite(ratio * ratio * gap * derivative * derivative, (ratio * derivative) ** 2 * gap);
  if (eta === 1) return scale / 2;
  const squared = eta * eta;
  const rho2 = 1 - gap;
  const numerator = 1 + squared * rho2;
  const denominator = eta * (1 + Math.sqrt(rho2 * (1 - squared * gap)));
  const factor = numerator / denominator;
  return (scale * factor * factor) / 2;
}

/** Reports the entry `index` of a list of timesteps, or the single timestep when there is no index. */
export function failTimestep(argument: string, index: number | undefined, expected: string, received: unknown): never {
  const name = index === undefined ? argument : `${argument}[${index}]`;
  if (typeof received !== 'number') failType(name, expected, received);
  failValue(name, expected, received);
}
