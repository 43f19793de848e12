/** The noise schedule of the digits experiment and the sampler that draws images from a denoiser. */

import { NoiseSchedule } from 'sdpo';
import { PIXELS } from './data.js';
import type { Params } from './jax.js';
import { predict } from './model.js';

export const TRAIN_TIMESTEPS = 1000;

/** The scheduler's configuration as diffusers writes it: a cosine schedule, and a model that predicts v. */
export const SCHEDULER_CONFIG = {
  _class_name: 'DDIMScheduler',
  num_train_timesteps: TRAIN_TIMESTEPS,
  beta_schedule: 'squaredcos_cap_v2',
  prediction_type: 'v_prediction',
  set_alpha_to_one: true,
  clip_sample: false,
};

/** Steps of the sampler whose transitions the preference loss weighs. */
export const TRAINING_INFERENCE_STEPS = 20;
const SAMPLING_STEPS = 25;
const CLAMP = 1.5;

const samplingSchedule = NoiseSchedule.fromDiffusers(SCHEDULER_CONFIG, { inferenceSteps: SAMPLING_STEPS });

/**
 * Draws one image from each row of `noise` `[rows, 64]` by deterministic DDIM (arXiv 2010.02502, η = 0) in 25 steps. The estimate of
 * the clean image is clamped to ±1.5 at every step, and the final image to the range of a pixel, as it is when an image is stored.
 */
export function sample(params: Params, noise: Float32Array): Float32Array {
  const rows = noise.length / PIXELS;
  const x = noise.slice();
  const stride = TRAIN_TIMESTEPS / SAMPLING_STEPS;
  for (let t = TRAIN_TIMESTEPS - 1; t >= 0; t -= stride) {
    const v = predict(params, x, new Float64Array(rows).fill(t));
    const signal = samplingSchedule.signal(t);
    const sigma = samplingSchedule.sigma(t);
    const previous = t - stride;
    const nextSignal = previous < 0 ? 1 : samplingSchedule.signal(previous);
    const nextSigma = previous < 0 ? 0 : samplingSchedule.sigma(previous);
    for (let i = 0; i < x.length; i++) {
      const clean = Math.min(CLAMP, Math.max(-CLAMP, signal * x[i]! - sigma * v[i]!));
      // The noise that belongs to the clamped estimate, so that x stays at the noise level the denoiser is told.
      x[i] = nextSignal * clean + nextSigma * ((x[i]! - signal * clean) / sigma);
    }
  }
  return x.map((value) => Math.min(1, Math.max(-1, value)));
}
