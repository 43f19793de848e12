/** The timestep shift of a resolution: how large it is for a number of tokens, and how many tokens a picture or film has. */

import { SdpoError } from '../native/errors.js';
import { checkInteger, checkNumber, checkNumberAbove, failValue } from '../native/validate.js';

/** What a shift that depends on the resolution (`use_dynamic_shifting`) is computed from: one of `mu`, `imageSeqLen`, or a size. */
export interface ShiftOptions {
  /** μ as the pipeline computes it; the shift is e^μ, or μ itself with `time_shift_type: 'linear'`. */
  mu?: number | undefined;
  /** Number of tokens of a sample, after patching: latent frames × rows × columns. */
  imageSeqLen?: number | undefined;
  /** In pixels; with `height`. */
  width?: number | undefined;
  height?: number | undefined;
  /** Latent frames of a film, default 1. */
  frames?: number | undefined;
  /** Edge of the square of pixels that a token stands for: scale of the VAE × patch size (FLUX, Qwen-Image: 8 × 2 = 16). Presets know theirs. */
  pixelsPerToken?: number | undefined;
}

export const SHIFT_OPTIONS: readonly (keyof ShiftOptions)[] = [
  'mu',
  'imageSeqLen',
  'width',
  'height',
  'frames',
  'pixelsPerToken',
];

/** How μ depends on the number of tokens. */
export interface DynamicShift {
  readonly type: 'exponential' | 'linear';
  /** μ at `baseLength` tokens and at `maxLength`; linear between them and beyond. */
  readonly baseShift: number;
  readonly maxShift: number;
  readonly baseLength: number;
  readonly maxLength: number;
  /** Of a preset: the edge of a token. */
  readonly pixelsPerToken?: number | undefined;
  /** Of a preset: μ by FLUX.2's fit to the tokens and the steps, in place of the line. */
  readonly empirical?: boolean | undefined;
}

/** A shift that is settled, and the μ it came from. */
export interface ResolvedShift {
  readonly shift: number;
  readonly mu?: number;
}

/** @param inferenceSteps of the sampler, which FLUX.2's μ depends on */
export function resolveShift(options: ShiftOptions, dynamic: DynamicShift, inferenceSteps: number): ResolvedShift {
  const mu = muOf(options, dynamic, inferenceSteps);
  if (dynamic.type === 'linear') return { mu, shift: checkNumberAbove('options.mu', mu, 0) };
  const shift = Math.exp(mu);
  if (!(shift > 0 && Number.isFinite(shift))) failValue('options.mu', 'a number whose exponential is finite', mu);
  return { mu, shift };
}

/** For schedules whose shift does not depend on the resolution. */
export function refuseShiftOptions(options: ShiftOptions): void {
  for (const name of SHIFT_OPTIONS) {
    if (options[name] === undefined) continue;
    failValue(
      `options.${name}`,
      'absent, since the shift of this schedule does not depend on the resolution (use_dynamic_shifting)',
      options[name],
      'ERR_SDPO_INVALID_OPTION',
    );
  }
}

function muOf(options: ShiftOptions, dynamic: DynamicShift, inferenceSteps: number): number {
  const { mu, imageSeqLen, width, height } = options;
  const sized = width !== undefined || height !== undefined;
  const ways = [mu !== undefined, imageSeqLen !== undefined, sized].filter(Boolean).length;
  if (ways > 1) {
    const name = mu === undefined ? 'imageSeqLen' : 'mu';
    failValue(`options.${name}`, 'the only size that is given', options[name], 'ERR_SDPO_INVALID_OPTION');
  }
  for (const name of ['frames', 'pixelsPerToken'] as const) {
    if (options[name] !== undefined && !sized) {
      failValue(`options.${name}`, 'absent without a width and height', options[name], 'ERR_SDPO_INVALID_OPTION');
    }
  }
  if (mu !== undefined) return checkNumber('options.mu', mu);
  if (imageSeqLen !== undefined) {
    return muOfTokens(checkInteger('options.imageSeqLen', imageSeqLen, 1), dynamic, inferenceSteps);
  }
  if (sized) return muOfTokens(tokensOf(options, dynamic), dynamic, inferenceSteps);
  if (dynamic.baseShift === dynamic.maxShift && !dynamic.empirical) return dynamic.baseShift;
  throw new SdpoError(
    'ERR_SDPO_UNSUPPORTED_CONFIG',
    'Expected config.use_dynamic_shifting to be false, or options.mu, options.imageSeqLen, or options.width, options.height and options.pixelsPerToken to be given (the shift of this model depends on the resolution), received true',
  );
}

function tokensOf({ width, height, frames, pixelsPerToken }: ShiftOptions, dynamic: DynamicShift): number {
  const edge = checkInteger('options.pixelsPerToken', pixelsPerToken ?? dynamic.pixelsPerToken, 1);
  const columns = Math.floor(checkInteger('options.width', width, edge) / edge);
  const rows = Math.floor(checkInteger('options.height', height, edge) / edge);
  return columns * rows * checkInteger('options.frames', frames ?? 1, 1);
}

function muOfTokens(tokens: number, dynamic: DynamicShift, inferenceSteps: number): number {
  if (dynamic.empirical) return empiricalMu(tokens, inferenceSteps);
  const { baseShift, maxShift, baseLength, maxLength } = dynamic;
  const slope = (maxShift - baseShift) / (maxLength - baseLength);
  return tokens * slope + (baseShift - slope * baseLength);
}

/**
 * FLUX.2's μ: lines over the tokens fitted at 10 and at 200 steps, linear in the steps between and beyond; above 4300 tokens the one of 200 steps
 * (`compute_empirical_mu` of diffusers' Flux2Pipeline).
 */
function empiricalMu(tokens: number, inferenceSteps: number): number {
  const many = 0.00016927 * tokens + 0.45666666;
  if (tokens > 4300) return many;
  const few = 8.73809524e-5 * tokens + 1.89833333;
  return many + ((many - few) / 190) * (inferenceSteps - 200);
}
