/** Scheduler configs of published models, by name, with the place each was read from. */

import type { DiffusersConfig } from './diffusers.js';

const LATENT_DIFFUSION = {
  num_train_timesteps: 1000,
  beta_start: 0.00085,
  beta_end: 0.012,
  beta_schedule: 'scaled_linear',
} as const;

const COGVIDEOX = {
  _class_name: 'CogVideoXDDIMScheduler',
  ...LATENT_DIFFUSION,
  prediction_type: 'v_prediction',
  rescale_betas_zero_snr: true,
  set_alpha_to_one: true,
  clip_sample: false,
  timestep_spacing: 'trailing',
} as const;

const WAN = {
  _class_name: 'UniPCMultistepScheduler',
  num_train_timesteps: 1000,
  prediction_type: 'flow_prediction',
  use_flow_sigmas: true,
} as const;

export const PRESETS = {
  /**
   * Stable Diffusion 1.5: `scheduler/scheduler_config.json` of stable-diffusion-v1-5/stable-diffusion-v1-5, and `SCHEDULER_DEFAULT_CONFIG` of
   * diffusers' `loaders/single_file_utils.py`.
   */
  sd15: {
    _class_name: 'PNDMScheduler',
    ...LATENT_DIFFUSION,
    prediction_type: 'epsilon',
    set_alpha_to_one: false,
    skip_prk_steps: true,
    steps_offset: 1,
    clip_sample: false,
    timestep_spacing: 'leading',
  },
  /** Stable Diffusion XL: `scheduler/scheduler_config.json` of stabilityai/stable-diffusion-xl-base-1.0. */
  sdxl: {
    _class_name: 'EulerDiscreteScheduler',
    ...LATENT_DIFFUSION,
    prediction_type: 'epsilon',
    interpolation_type: 'linear',
    steps_offset: 1,
    clip_sample: false,
    timestep_spacing: 'leading',
    use_karras_sigmas: false,
  },
  /** CogVideoX-2B: `scheduler/scheduler_config.json` of THUDM/CogVideoX-2b; diffusers' `scripts/convert_cogvideox_to_diffusers.py`. */
  'cogvideox-2b': { ...COGVIDEOX, snr_shift_scale: 3 },
  /** CogVideoX-5B: the same script, whose help gives an SNR shift of 3 to the 2B model and of 1 to the 5B model. */
  'cogvideox-5b': { ...COGVIDEOX, snr_shift_scale: 1 },
  /** Wan2.1 1.3B at 480p: diffusers' `scripts/convert_wan_to_diffusers.py` (flow_shift 3) and the Wan pipelines' docstrings (480p). */
  'wan2.1-1.3b': { ...WAN, flow_shift: 3 },
  /** Wan2.1 14B at 720p: diffusers' Wan pipelines' docstrings (flow_shift 5 for 720p). */
  'wan2.1-14b-720p': { ...WAN, flow_shift: 5 },
  /** Stable Diffusion 3 (arXiv 2403.03206): `scheduler/scheduler_config.json` of stabilityai/stable-diffusion-3-medium-diffusers. */
  sd3: { _class_name: 'FlowMatchEulerDiscreteScheduler', num_train_timesteps: 1000, shift: 3 },
  /** FLUX.1-schnell: `scheduler/scheduler_config.json` of black-forest-labs/FLUX.1-schnell. */
  'flux-schnell': {
    _class_name: 'FlowMatchEulerDiscreteScheduler',
    num_train_timesteps: 1000,
    shift: 1,
    use_dynamic_shifting: false,
  },
} as const satisfies Record<string, DiffusersConfig>;

export type PresetName = keyof typeof PRESETS;

export const PRESET_NAMES = Object.keys(PRESETS) as PresetName[];
