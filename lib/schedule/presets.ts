/** Scheduler configs of published models, by name, with the place each was read from and the ladder that its pipeline runs. */

import type { DiffusersConfig } from './config-file.js';
import type { LadderName } from './ladder.js';

export interface Preset {
  readonly config: DiffusersConfig;
  /** Where it is not the default of the class. */
  readonly ladder?: LadderName;
  /** Edge of the square of pixels that a token stands for, where the shift depends on the resolution. */
  readonly pixelsPerToken?: number;
  /** μ is FLUX.2's fit, not the line of the config. */
  readonly empirical?: boolean;
}

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

const FLOW = { _class_name: 'FlowMatchEulerDiscreteScheduler', num_train_timesteps: 1000 } as const;

/** The fields of FLUX's configs; `shift` is not looked at with them. */
const DYNAMIC = {
  ...FLOW,
  use_dynamic_shifting: true,
  time_shift_type: 'exponential',
  base_shift: 0.5,
  max_shift: 1.15,
  base_image_seq_len: 256,
  max_image_seq_len: 4096,
} as const;

export const PRESETS = {
  /**
   * Stable Diffusion 1.5: `scheduler/scheduler_config.json` of stable-diffusion-v1-5/stable-diffusion-v1-5, and `SCHEDULER_DEFAULT_CONFIG` of
   * diffusers' `loaders/single_file_utils.py`.
   */
  sd15: {
    config: {
      _class_name: 'PNDMScheduler',
      ...LATENT_DIFFUSION,
      prediction_type: 'epsilon',
      set_alpha_to_one: false,
      skip_prk_steps: true,
      steps_offset: 1,
      clip_sample: false,
      timestep_spacing: 'leading',
    },
  },
  /** Stable Diffusion XL: `scheduler/scheduler_config.json` of stabilityai/stable-diffusion-xl-base-1.0. */
  sdxl: {
    config: {
      _class_name: 'EulerDiscreteScheduler',
      ...LATENT_DIFFUSION,
      prediction_type: 'epsilon',
      interpolation_type: 'linear',
      steps_offset: 1,
      clip_sample: false,
      timestep_spacing: 'leading',
      use_karras_sigmas: false,
    },
  },
  /** CogVideoX-2B: `scheduler/scheduler_config.json` of THUDM/CogVideoX-2b; diffusers' `scripts/convert_cogvideox_to_diffusers.py`. */
  'cogvideox-2b': { config: { ...COGVIDEOX, snr_shift_scale: 3 } },
  /** CogVideoX-5B: the same script, whose help gives an SNR shift of 3 to the 2B model and of 1 to the 5B model. */
  'cogvideox-5b': { config: { ...COGVIDEOX, snr_shift_scale: 1 } },
  /** Wan2.1 1.3B at 480p: diffusers' `scripts/convert_wan_to_diffusers.py` (flow_shift 3) and the Wan pipelines' docstrings (480p). */
  'wan2.1-1.3b': { config: { ...WAN, flow_shift: 3 } },
  /** Wan2.1 14B at 720p: diffusers' Wan pipelines' docstrings (flow_shift 5 for 720p). */
  'wan2.1-14b-720p': { config: { ...WAN, flow_shift: 5 } },
  /**
   * Stable Diffusion 3 (arXiv 2403.03206): `scheduler/scheduler_config.json` of stabilityai/stable-diffusion-3-medium-diffusers, with the class's own
   * ladder, which its pipeline runs.
   */
  sd3: { config: { ...FLOW, shift: 3 }, ladder: 'scheduler' },
  /** FLUX.1-schnell: `scheduler/scheduler_config.json` of black-forest-labs/FLUX.1-schnell. */
  'flux-schnell': { config: { ...FLOW, shift: 1, use_dynamic_shifting: false } },
  /** Stable Diffusion 2.1 at 768: `scheduler/scheduler_config.json` of stabilityai/stable-diffusion-2-1. */
  'sd21-v': {
    config: {
      _class_name: 'DDIMScheduler',
      ...LATENT_DIFFUSION,
      prediction_type: 'v_prediction',
      set_alpha_to_one: false,
      steps_offset: 1,
      clip_sample: false,
    },
  },
  /** SDXL-Turbo, sampled in 1 to 4 steps: `scheduler/scheduler_config.json` of stabilityai/sdxl-turbo. */
  'sdxl-turbo': {
    config: {
      _class_name: 'EulerAncestralDiscreteScheduler',
      ...LATENT_DIFFUSION,
      prediction_type: 'epsilon',
      steps_offset: 1,
      timestep_spacing: 'trailing',
    },
  },
  /** CogVideoX1.5-5B: `scheduler/scheduler_config.json` of THUDM/CogVideoX1.5-5B. */
  'cogvideox1.5-5b': { config: { ...COGVIDEOX, _class_name: 'CogVideoXDPMScheduler', snr_shift_scale: 1 } },
  /** Wan2.1 14B at 480p: the same docstrings (flow_shift 3 for 480p). */
  'wan2.1-14b-480p': { config: { ...WAN, flow_shift: 3 } },
  /** Wan2.2 A14B (text or image to film): `scheduler/scheduler_config.json` of Wan-AI/Wan2.2-T2V-A14B-Diffusers; `scripts/convert_wan_to_diffusers.py`. */
  'wan2.2-a14b': { config: { ...WAN, flow_shift: 3 } },
  /** Wan2.2 TI2V 5B: `scheduler/scheduler_config.json` of Wan-AI/Wan2.2-TI2V-5B-Diffusers; the same script. */
  'wan2.2-ti2v-5b': { config: { ...WAN, flow_shift: 5 } },
  /** Stable Diffusion 3.5: `scheduler/scheduler_config.json` of stabilityai/stable-diffusion-3.5-large; its pipeline gives no sigmas of its own. */
  sd35: { config: { ...FLOW, shift: 3 }, ladder: 'scheduler' },
  /** FLUX.1-dev: `scheduler/scheduler_config.json` of black-forest-labs/FLUX.1-dev; diffusers' `FluxPipeline` (VAE 8, patches 2 × 2). */
  'flux-dev': { config: DYNAMIC, pixelsPerToken: 16 },
  /** FLUX.2-dev: the config of FLUX.1-dev, with μ by `compute_empirical_mu` of diffusers' `Flux2Pipeline`. */
  'flux2-dev': { config: DYNAMIC, pixelsPerToken: 16, empirical: true },
  /** Qwen-Image: `scheduler/scheduler_config.json` of Qwen/Qwen-Image; diffusers' `QwenImagePipeline` (VAE 8, patches 2 × 2). */
  'qwen-image': {
    config: { ...DYNAMIC, max_shift: 0.9, max_image_seq_len: 8192, shift_terminal: 0.02 },
    pixelsPerToken: 16,
  },
  /** Z-Image: `scheduler/scheduler_config.json` of Tongyi-MAI/Z-Image. */
  'z-image': { config: { ...FLOW, shift: 6 } },
  /** Z-Image-Turbo, sampled in 8 steps: `scheduler/scheduler_config.json` of Tongyi-MAI/Z-Image-Turbo. */
  'z-image-turbo': { config: { ...FLOW, shift: 3 } },
  /** HunyuanVideo: diffusers' `scripts/convert_hunyuan_video_to_diffusers.py` (flow_shift 7). */
  hunyuanvideo: { config: { ...FLOW, shift: 7 } },
  /** LTX-Video 0.9 and 0.9.1: diffusers' `scripts/convert_ltx_to_diffusers.py`; `LTXPipeline` (VAE 32 × 32 × 8, no patches). */
  'ltx-video': {
    config: { ...DYNAMIC, base_shift: 0.95, max_shift: 2.05, base_image_seq_len: 1024, shift_terminal: 0.1 },
    pixelsPerToken: 32,
  },
  /** Mochi 1: diffusers' `scripts/convert_mochi_to_diffusers.py`; `MochiPipeline` (a linear-quadratic ladder). */
  mochi: { config: { ...FLOW, shift: 1, invert_sigmas: true }, ladder: 'linear-quadratic' },
  /** Sana (all but 4K): diffusers' `scripts/convert_sana_to_diffusers.py` (flow_shift 3). */
  sana: {
    config: {
      _class_name: 'DPMSolverMultistepScheduler',
      num_train_timesteps: 1000,
      prediction_type: 'flow_prediction',
      use_flow_sigmas: true,
      flow_shift: 3,
    },
  },
  /** Lumina-Image 2.0: `scheduler/scheduler_config.json` of Alpha-VLLM/Lumina-Image-2.0. */
  lumina2: { config: { ...FLOW, shift: 6 } },
} as const satisfies Record<string, Preset>;

/** Name of a preset: a model whose scheduler config is known. @useDeclaredType */
export type PresetName = keyof typeof PRESETS;

export const PRESET_NAMES = Object.freeze(Object.keys(PRESETS)) as readonly PresetName[];
