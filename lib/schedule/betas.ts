/** Tables of ᾱ_t and 1-ᾱ_t in float64: beta schedules, the SNR shift and the zero-terminal-SNR rescaling. */

import { checkNumber, checkNumberList, failType, failValue } from '../native/validate.js';

export const BETA_SCHEDULES = ['linear', 'scaled_linear', 'squaredcos_cap_v2', 'exp', 'sigmoid', 'laplace'] as const;
/** Shape of the betas, named as in diffusers. @useDeclaredType */
export type BetaSchedule = (typeof BETA_SCHEDULES)[number];

/**
 * Signal and noise power of every timestep. Both are kept because 1 - ᾱ taken from a rounded ᾱ loses its leading digits where there is
 * little noise, which is where ω is largest.
 */
export interface PowerTable {
  /** ᾱ_t, one entry per timestep, non-increasing. */
  readonly signal: Float64Array;
  /** 1 - ᾱ_t. */
  readonly noise: Float64Array;
}

/** Evenly spaced values with exact end points. */
function linspace(start: number, end: number, count: number): Float64Array {
  const out = new Float64Array(count);
  const step = count > 1 ? (end - start) / (count - 1) : 0;
  for (let i = 0; i < count; i++) out[i] = 2 * i < count ? start + step * i : end - step * (count - 1 - i);
  return out;
}

/** The cap on a beta that is taken from ratios of ᾱ (arXiv 2102.09672, section 3.2). */
const MAX_BETA = 0.999;

/**
 * Forward variances β_t of a named schedule.
 *
 * `linear`: evenly spaced (DDPM). `scaled_linear`: squares of evenly spaced roots (latent diffusion). `squaredcos_cap_v2`: the ratio of
 * cos² at successive times (arXiv 2102.09672, equation 17), where start and end play no part, nor do they in the next two. `exp`: ᾱ(x) = e^(-12 x).
 * `laplace`: log SNR distributed by Laplace's law (arXiv 2407.03297). `sigmoid`: between start and end by the logistic function of -6 … 6.
 */
export function namedBetas(schedule: BetaSchedule, steps: number, start: number, end: number): Float64Array {
  switch (schedule) {
    case 'linear':
      return linspace(start, end, steps);
    case 'scaled_linear':
      return linspace(Math.sqrt(start), Math.sqrt(end), steps).map((root) => root * root);
    case 'squaredcos_cap_v2': {
      // ᾱ(i) = cos² α_i with α_i = ((i/T + 0.008) / 1.008) π/2. The angle left to π/2 is computed by itself, and 1 - cos²/cos² as a product of
      // sines, so that neither the first betas nor the last cosines are differences of nearly equal numbers.
      const quarter = Math.PI / 2 / 1.008;
      const angle = (i: number): number => (i / steps + 0.008) * quarter;
      const left = (i: number): number => ((steps - i) / steps) * quarter;
      const step = Math.sin(quarter / steps);
      const out = new Float64Array(steps);
      for (let i = 0; i < steps; i++) {
        const sum = Math.min(angle(i) + angle(i + 1), left(i) + left(i + 1)); // their sines are the same
        const cosine = Math.sin(left(i));
        out[i] = Math.min((step * Math.sin(sum)) / (cosine * cosine), MAX_BETA);
      }
      return out;
    }
    case 'exp':
      return new Float64Array(steps).fill(Math.min(-Math.expm1(-12 / steps), MAX_BETA));
    case 'laplace':
      return Float64Array.from({ length: steps }, (_, i) =>
        Math.min(1 - laplaceRoot((i + 1) / steps) / laplaceRoot(i / steps), MAX_BETA),
      );
    case 'sigmoid':
      return linspace(-6, 6, steps).map((x) => start + (end - start) / (1 + Math.exp(-x)));
  }
}

/** √(SNR / (1 + SNR)) at a log SNR of ∓½ log(1 - 2 |½ - x|), which the schedule takes for its ᾱ; 10⁻⁶ keeps the ends finite. */
function laplaceRoot(x: number): number {
  const away = Math.abs(0.5 - x);
  const snr = Math.exp((x <= 0.5 ? -0.5 : 0.5) * Math.log(1 - 2 * away + 1e-6));
  return Math.sqrt(snr / (1 + snr));
}

/** Betas the caller trained or chose, checked. */
export function givenBetas(argument: string, values: unknown): Float64Array {
  if (!Array.isArray(values)) failType(argument, 'an array of numbers', values);
  if (values.length === 0) failValue(argument, 'an array of at least one number', values, 'ERR_SDPO_INVALID_LENGTH');
  return Float64Array.from(values, (value, i) => {
    if (typeof value !== 'number') failType(`${argument}[${i}]`, 'a number in [0, 1]', value);
    if (!(value >= 0 && value <= 1)) failValue(`${argument}[${i}]`, 'a number in [0, 1]', value);
    return value;
  });
}

/** ᾱ_t the caller computed, checked: in [0, 1] and non-increasing. */
export function givenAlphas(argument: string, values: unknown): PowerTable {
  const list = checkNumberList(argument, values);
  if (list.length === 0) failValue(argument, 'a list of at least one number', list, 'ERR_SDPO_INVALID_LENGTH');
  const signal = new Float64Array(list.length);
  for (let t = 0; t < signal.length; t++) {
    const before = t === 0 ? 1 : signal[t - 1];
    signal[t] = checkNumber(`${argument}[${t}]`, list[t], 0, before);
  }
  return { signal, noise: signal.map((power) => 1 - power) };
}

/**
 * ᾱ_t = Π (1-β_i), and its complement by the recurrence 1-ᾱ_t = (1-ᾱ_{t-1}) + ᾱ_{t-1} β_t, a sum of non-negative terms, as long as that is
 * the smaller of the two.
 */
export function cumulate(betas: Float64Array): PowerTable {
  const signal = new Float64Array(betas.length);
  const noise = new Float64Array(betas.length);
  let power = 1;
  let complement = 0;
  for (let t = 0; t < betas.length; t++) {
    complement += power * betas[t]!;
    power *= 1 - betas[t]!;
    signal[t] = power;
    noise[t] = power > 0.5 ? complement : 1 - power;
  }
  return { signal, noise };
}

/** Divides every signal-to-noise ratio by k: ᾱ ← ᾱ / (k + (1-k) ᾱ), written as ᾱ / (ᾱ + k (1-ᾱ)). */
export function shiftSnr(table: PowerTable, k: number): PowerTable {
  return {
    signal: table.signal.map((power, t) => power / (power + k * table.noise[t]!)),
    noise: table.noise.map((complement, t) => (k * complement) / (table.signal[t]! + k * complement)),
  };
}

/**
 * Shifts and scales √ᾱ so that the first entry stays and the last one is 0 (arXiv 2305.08891, algorithm 1). The table needs at least two
 * entries that differ.
 */
export function rescaleToZeroTerminalSnr(table: PowerTable): PowerTable {
  const last = table.signal.length - 1;
  const rootFirst = Math.sqrt(table.signal[0]!);
  const rootLast = Math.sqrt(table.signal[last]!);
  const missingFirst = table.noise[0]! / (1 + rootFirst); // 1 - √ᾱ_0
  const span = rootFirst - rootLast;
  const signal = new Float64Array(last + 1);
  const noise = new Float64Array(last + 1);
  for (let t = 0; t <= last; t++) {
    const root = Math.sqrt(table.signal[t]!);
    const scaled = ((root - rootLast) * rootFirst) / span;
    // 1 - scaled, put on the common denominator so that the ones cancel by algebra.
    const missing = ((table.noise[t]! / (1 + root)) * rootFirst - rootLast * missingFirst) / span;
    signal[t] = scaled * scaled;
    noise[t] = signal[t]! > 0.5 ? missing * (1 + scaled) : 1 - signal[t]!;
  }
  return { signal, noise };
}
