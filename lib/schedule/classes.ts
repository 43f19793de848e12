/** The scheduler classes of diffusers: which fields each reads, with its defaults, how it lays its ladder, and what cannot be followed. */

import type { BetaSchedule } from './betas.js';

export type FieldValue = string | number | boolean | null | readonly number[];

/** How a class lays the ladder of a variance-preserving schedule; the words are those of `TableLadderSpec`. */
export interface TableRule {
  readonly kind: 'stride' | 'spaced' | 'solver' | 'consistency' | 'unclip';
  readonly rounded: boolean;
  /** Ends on the lowest level whatever `final_sigmas_type` says, which it does not read. */
  readonly held?: boolean;
  /** Karras levels go between the ends of the ladder whatever `sigma_min` and `sigma_max` say. */
  readonly unboundedKarras?: boolean;
  /** ᾱ that the class puts in place of the 0 at the end of a zero-terminal-SNR schedule, as its noise levels are s/a. */
  readonly terminalSignal?: number;
}

/** How a class lays the ladder of a flow; the words are those of `FlowLadderSpec`. */
export interface FlowRule {
  readonly base: 'flow-match' | 'uniform' | 'unipc' | 'dpm' | 'minimax';
  /** Name of the field that holds the shift. */
  readonly shift: 'shift' | 'flow_shift';
  /** The ladder where the caller names none: pipelines of these classes give them sigmas of their own, from 1 to 1/n. */
  readonly uniform?: boolean;
  readonly held?: boolean;
  /** T, where no field says it. */
  readonly trainSteps?: number;
  readonly inverted?: boolean;
}

export interface Scheduler {
  /** Fields that this class reads and we follow, with the value the class gives them when they are absent. */
  readonly reads: Readonly<Record<string, FieldValue>>;
  readonly table?: TableRule;
  /** With a table too: followed where `use_flow_sigmas` is true. */
  readonly flow?: FlowRule;
  /** The prediction types it knows, where those are not all of its family. */
  readonly predictions?: readonly string[];
  /** The beta schedules it knows, where those are not the first three. */
  readonly betas?: readonly BetaSchedule[];
  /** Fields that this class reads, and that cannot be followed unless they have a value of `DEMANDS`. */
  readonly demands?: readonly string[];
  /** The noise of its transitions, where that is not `posterior`. */
  readonly variance?: 'fresh';
}

const COMMON_BETAS = ['linear', 'scaled_linear', 'squaredcos_cap_v2'] as const;
export const DEFAULT_BETAS: readonly BetaSchedule[] = COMMON_BETAS;

const BETAS = {
  num_train_timesteps: 1000,
  beta_start: 0.0001,
  beta_end: 0.02,
  beta_schedule: 'linear',
  trained_betas: null,
  prediction_type: 'epsilon',
} as const;

/** The betas that k-diffusion's samplers default to. */
const K_BETAS = { ...BETAS, beta_start: 0.00085, beta_end: 0.012 } as const;
const LATENT_BETAS = { ...K_BETAS, beta_schedule: 'scaled_linear' } as const;

const LEADING = { timestep_spacing: 'leading', steps_offset: 0 } as const;
const LINSPACE = { timestep_spacing: 'linspace', steps_offset: 0 } as const;
/** The bounds are no arguments of most classes, but diffusers keeps foreign fields in the config, and the conversions look there. */
const CONVERSIONS = {
  use_karras_sigmas: false,
  use_exponential_sigmas: false,
  use_beta_sigmas: false,
  sigma_min: null,
  sigma_max: null,
} as const;
const RESCALE = { rescale_betas_zero_snr: false } as const;
const DYNAMIC = {
  use_dynamic_shifting: false,
  base_shift: 0.5,
  max_shift: 1.15,
  base_image_seq_len: 256,
  max_image_seq_len: 4096,
  time_shift_type: 'exponential',
} as const;
/** Fields of solvers for both families; where they compute mu from is up to the pipeline, so the fields of FlowMatchEuler are read here too. */
const FLOW_SIGMAS = { use_flow_sigmas: false, flow_shift: 1, ...DYNAMIC } as const;

/** The smallest positive float16, which stands for an ᾱ of 0 where σ = √((1-ᾱ)/ᾱ) must stay finite. */
const TERMINAL = 2 ** -24;

const CLIPPING = ['clip_sample', 'thresholding'] as const;

const DDPM: Scheduler = {
  reads: { ...BETAS, ...RESCALE, ...LEADING, variance_type: 'fixed_small' },
  table: { kind: 'spaced', rounded: true },
  betas: [...COMMON_BETAS, 'sigmoid', 'laplace'],
  demands: CLIPPING,
};

const DDIM: Scheduler = {
  reads: { ...BETAS, set_alpha_to_one: true, ...RESCALE, ...LEADING },
  table: { kind: 'stride', rounded: true },
  demands: CLIPPING,
};

const COGVIDEOX: Scheduler = {
  reads: { ...LATENT_BETAS, set_alpha_to_one: true, ...RESCALE, ...LEADING, snr_shift_scale: 3 },
  table: { kind: 'stride', rounded: true },
  demands: CLIPPING,
};

const PNDM: Scheduler = {
  reads: { ...BETAS, set_alpha_to_one: false, ...LEADING },
  table: { kind: 'stride', rounded: true },
};

const EULER: Scheduler = {
  reads: {
    ...BETAS,
    ...RESCALE,
    ...LINSPACE,
    ...CONVERSIONS,
    interpolation_type: 'linear',
    final_sigmas_type: 'zero',
    timestep_type: 'discrete',
  },
  table: { kind: 'spaced', rounded: false, terminalSignal: TERMINAL },
};

const K_SAMPLER: Scheduler = {
  reads: { ...K_BETAS, ...LINSPACE, ...CONVERSIONS },
  table: { kind: 'spaced', rounded: false },
};

const UNBOUNDED: TableRule = { kind: 'spaced', rounded: false, unboundedKarras: true };

const LMS: Scheduler = { reads: { ...BETAS, ...LINSPACE, ...CONVERSIONS }, table: UNBOUNDED };

const DPM_SOLVER: Scheduler = {
  reads: {
    ...BETAS,
    ...RESCALE,
    ...LINSPACE,
    ...CONVERSIONS,
    use_lu_lambdas: false,
    ...FLOW_SIGMAS,
    final_sigmas_type: 'zero',
    lambda_min_clipped: null,
  },
  table: { kind: 'solver', rounded: true, terminalSignal: TERMINAL },
  flow: { base: 'dpm', shift: 'flow_shift' },
  demands: ['thresholding'],
};

const CONSISTENCY: Scheduler = {
  reads: { ...LATENT_BETAS, ...RESCALE, original_inference_steps: 50 },
  table: { kind: 'consistency', rounded: true },
  demands: CLIPPING,
};

const FLOW_MATCH: Scheduler = {
  reads: {
    num_train_timesteps: 1000,
    shift: 1,
    ...DYNAMIC,
    ...CONVERSIONS,
    invert_sigmas: false,
    shift_terminal: null,
    stochastic_sampling: false,
    prediction_type: 'flow_prediction',
  },
  flow: { base: 'flow-match', shift: 'shift', uniform: true },
  // The class takes the prediction for a velocity whatever the config says.
  predictions: ['flow_prediction'],
};

const STATIC_FLOW = { num_train_timesteps: 1000, shift: 1, prediction_type: 'flow_prediction' } as const;

const { stochastic_sampling: _, ...FLOW_MATCH_LCM } = FLOW_MATCH.reads;

export const SCHEDULERS: Readonly<Record<string, Scheduler>> = {
  DDPMScheduler: DDPM,
  DDPMParallelScheduler: DDPM,
  DDIMScheduler: DDIM,
  DDIMParallelScheduler: DDIM,
  PNDMScheduler: PNDM,
  CogVideoXDDIMScheduler: COGVIDEOX,
  CogVideoXDPMScheduler: COGVIDEOX,
  EulerDiscreteScheduler: EULER,
  EulerAncestralDiscreteScheduler: { ...EULER, reads: { ...BETAS, ...RESCALE, ...LINSPACE } },
  HeunDiscreteScheduler: { ...K_SAMPLER, betas: [...COMMON_BETAS, 'exp'], demands: ['clip_sample'] },
  KDPM2DiscreteScheduler: K_SAMPLER,
  KDPM2AncestralDiscreteScheduler: K_SAMPLER,
  DPMSolverSDEScheduler: { ...K_SAMPLER, table: UNBOUNDED },
  LMSDiscreteScheduler: LMS,
  DPMSolverMultistepScheduler: DPM_SOLVER,
  DPMSolverSinglestepScheduler: {
    reads: { ...BETAS, ...CONVERSIONS, ...FLOW_SIGMAS, final_sigmas_type: 'zero', lambda_min_clipped: null },
    table: { kind: 'solver', rounded: true },
    flow: { base: 'dpm', shift: 'flow_shift' },
    demands: ['thresholding'],
  },
  DEISMultistepScheduler: {
    reads: { ...BETAS, ...LINSPACE, ...CONVERSIONS, ...FLOW_SIGMAS },
    table: { kind: 'solver', rounded: true, held: true },
    flow: { base: 'dpm', shift: 'flow_shift', held: true },
    demands: ['thresholding'],
  },
  SASolverScheduler: {
    reads: { ...BETAS, ...LINSPACE, ...CONVERSIONS, use_flow_sigmas: false, flow_shift: 1, lambda_min_clipped: null },
    table: { kind: 'solver', rounded: true, held: true },
    flow: { base: 'dpm', shift: 'flow_shift', held: true },
    demands: ['thresholding'],
  },
  UniPCMultistepScheduler: {
    reads: {
      ...BETAS,
      ...RESCALE,
      ...LINSPACE,
      ...CONVERSIONS,
      ...FLOW_SIGMAS,
      final_sigmas_type: 'zero',
      shift_terminal: null,
    },
    table: { kind: 'solver', rounded: true, terminalSignal: TERMINAL },
    flow: { base: 'unipc', shift: 'flow_shift' },
    demands: ['thresholding'],
  },
  LCMScheduler: { ...CONSISTENCY, variance: 'fresh' },
  TCDScheduler: { ...CONSISTENCY, table: { kind: 'consistency', rounded: true, held: true } },
  UnCLIPScheduler: {
    reads: {
      num_train_timesteps: 1000,
      beta_schedule: 'squaredcos_cap_v2',
      prediction_type: 'epsilon',
      variance_type: 'fixed_small_log',
    },
    table: { kind: 'unclip', rounded: true },
    betas: ['squaredcos_cap_v2'],
    predictions: ['epsilon', 'sample'],
    demands: ['clip_sample'],
  },
  FlowMatchEulerDiscreteScheduler: FLOW_MATCH,
  FlowMatchHeunDiscreteScheduler: {
    reads: STATIC_FLOW,
    flow: { base: 'flow-match', shift: 'shift' },
    predictions: ['flow_prediction'],
  },
  FlowMatchLCMScheduler: { ...FLOW_MATCH, reads: FLOW_MATCH_LCM, variance: 'fresh', demands: ['scale_factors'] },
  FlowMapEulerDiscreteScheduler: {
    reads: STATIC_FLOW,
    flow: { base: 'uniform', shift: 'shift' },
    predictions: ['flow_prediction'],
  },
  MiniMaxH3Scheduler: {
    reads: { shift: 12, prediction_type: 'flow_prediction' },
    flow: { base: 'minimax', shift: 'shift', trainSteps: 1, inverted: true },
    predictions: ['flow_prediction'],
  },
  FlaxDDPMScheduler: DDPM,
  FlaxDDIMScheduler: DDIM,
  FlaxPNDMScheduler: PNDM,
  FlaxEulerDiscreteScheduler: EULER,
  FlaxLMSDiscreteScheduler: LMS,
  FlaxDPMSolverMultistepScheduler: DPM_SOLVER,
};

export const SCHEDULER_CLASSES: readonly string[] = Object.keys(SCHEDULERS);

const TOKENS =
  'it replaces discrete tokens and adds no Gaussian noise, so no transition has the density that these losses need';
const LOG_SIGMA =
  'its timesteps are functions of σ and not indices; NoiseSchedule.variancePreserving with alphasCumprod σ_data² / (σ_data² + σ²) for a rising list of σ has its noise levels on x / σ_data, with the place in the list as the timestep and v_prediction for its preconditioned output (negated where prediction_type is epsilon)';
const EXPLODING =
  'its samples are x_0 + σ ε, whose variance grows with the noise; scaled by 1/√(1 + σ²) they are those of NoiseSchedule.variancePreserving with alphasCumprod 1/(1 + σ²) for a rising list of σ, but what the model predicts has to be brought into that form by its policy';
const BACKWARDS = 'it runs the sampler from data to noise; take the config of the class that the model is sampled with';

/** Classes that are known and cannot be followed, with the reason and what to do. */
export const REFUSED: Readonly<Record<string, string>> = {
  AmusedScheduler: TOKENS,
  BlockRefinementScheduler: TOKENS,
  DiscreteDDIMScheduler: TOKENS,
  EntropyBoundScheduler: TOKENS,
  VQDiffusionScheduler: TOKENS,
  EDMEulerScheduler: LOG_SIGMA,
  EDMDPMSolverMultistepScheduler: LOG_SIGMA,
  CosineDPMSolverMultistepScheduler: LOG_SIGMA,
  CMStochasticIterativeScheduler:
    'it samples a consistency model of σ, whose boundary conditions are part of the prediction; give omega with each batch (batch.transition)',
  ConsistencyDecoderScheduler: 'it samples the decoder of a VAE, not a latent model',
  DDIMInverseScheduler: BACKWARDS,
  DPMSolverMultistepInverseScheduler: BACKWARDS,
  DDPMWuerstchenScheduler:
    'its timesteps are real numbers in [0, 1]; NoiseSchedule.variancePreserving with its alphas_cumprod at 0, 1/N, …, 1 has its noise levels, with N times the timestep as the index',
  HeliosScheduler:
    'it changes the resolution between stages, each with levels of its own; NoiseSchedule.flow describes one stage',
  HeliosDMDScheduler:
    'it changes the resolution between stages, each with levels of its own; NoiseSchedule.flow describes one stage',
  IPNDMScheduler:
    'its timesteps are real numbers; NoiseSchedule.variancePreserving takes its a² as a table, with the place as the timestep',
  LTXEulerAncestralRFScheduler:
    "its steps draw another variance than the DDIM family's; the FlowMatchEulerDiscreteScheduler of the same model has its noise levels, and batch.transition takes an omega of your own",
  RePaintScheduler:
    'it goes back and forth between noise levels; take the config of the class that the model was trained with',
  SCMScheduler:
    'its timesteps are angles; NoiseSchedule.variancePreserving with alphasCumprod cos² of a rising list of angles and v_prediction has its noise levels on x / σ_data',
  KarrasVeScheduler: EXPLODING,
  FlaxKarrasVeScheduler: EXPLODING,
  ScoreSdeVeScheduler: EXPLODING,
  FlaxScoreSdeVeScheduler: EXPLODING,
  ScoreSdeVpScheduler:
    'its timesteps are real numbers; NoiseSchedule.variancePreserving takes its alphas_cumprod as a table',
};

/**
 * Fields that choose how a sampler solves between two levels or what it does to a picture, and those of ladders in classes that do not read them.
 * `set_alpha_to_one` and the betas are here for the classes that do not read them.
 */
export const WITHOUT_INFLUENCE: readonly string[] = [
  ...[
    'skip_prk_steps',
    'solver_order',
    'solver_type',
    'solver_p',
    'algorithm_type',
    'lower_order_final',
    'euler_at_final',
  ],
  ...['disable_corrector', 'predict_x0', 'predictor_order', 'corrector_order', 'tau_func', 'noise_sampler_seed'],
  ...['dynamic_thresholding_ratio', 'clip_sample_range', 'sample_max_value', 'tensor_format', 'timestep_scaling'],
  ...[
    'timestep_spacing',
    'steps_offset',
    'interpolation_type',
    'lambda_min_clipped',
    'sigma_min',
    'sigma_max',
    'sigma_data',
  ],
  ...['final_sigmas_type', 'original_inference_steps', 'use_uniform_sigmas', 'upscale_mode', 'eta', 's_noise', 'rho'],
  ...['use_karras_sigmas', 'use_exponential_sigmas', 'use_beta_sigmas', 'use_lu_lambdas', 'variance_type'],
  ...[
    'clip_sample',
    'thresholding',
    'scale_factors',
    'base_shift',
    'max_shift',
    'base_image_seq_len',
    'max_image_seq_len',
  ],
  ...[
    'time_shift_type',
    'set_alpha_to_one',
    'beta_start',
    'beta_end',
    'beta_schedule',
    'trained_betas',
    'num_train_timesteps',
  ],
];

export interface Demand {
  readonly harmless: readonly FieldValue[];
  readonly effect: string;
}

const CLIPS: Demand = {
  harmless: [false],
  effect: 'it clips the predicted x_0, so transitions are no longer Gaussian in the prediction',
};

/** What fields of `Scheduler.demands` have to be (or null, which is how JSON says absent), and what they do otherwise. Noise levels stay as they are. */
export const DEMANDS: Readonly<Record<string, Demand>> = {
  clip_sample: CLIPS,
  thresholding: CLIPS,
  scale_factors: { harmless: [], effect: 'it changes the resolution between steps' },
};

/**
 * Fields that mean another schedule, with the values that do not, for the classes that do not read them: diffusers would drop them, but whoever wrote
 * them trained with another schedule or mistook the class.
 */
export const ELSEWHERE: Readonly<Record<string, readonly FieldValue[]>> = {
  rescale_betas_zero_snr: [false],
  snr_shift_scale: [1],
  shift: [1],
  flow_shift: [1],
  use_flow_sigmas: [false],
  use_dynamic_shifting: [false],
  shift_terminal: [0, false],
  invert_sigmas: [false],
  stochastic_sampling: [false],
  timestep_type: ['discrete'],
  timestep_values: [],
};
