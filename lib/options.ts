/** Options of a preference loss: their meaning, their defaults, and which objective uses which. */

import { SdpoRangeError } from './errors.js';
import { NoiseSchedule } from './schedule.js';
import {
  checkBoolean,
  checkInteger,
  checkNumber,
  checkNumberAbove,
  checkOneOf,
  checkOptions,
  describe,
  failType,
  failValue,
} from './validate.js';

/** Names in the order of the native tables; compared when the addon is loaded. */
export const OBJECTIVES = ['diffusion-dpo', 'dpo-cm', 'sdpo'] as const;
export const LINKS = ['sigmoid', 'hinge', 'ipo'] as const;
export const PAIR_WEIGHTS = ['geometric', 'min', 'max', 'product'] as const;
export const WEIGHT_RATIOS = ['policy/data', 'policy/reference', 'reference/data'] as const;
export const SCOPES = ['all', 'masked'] as const;
export const NON_FINITE_POLICIES = ['throw', 'skip', 'propagate'] as const;
export const TIMESTEP_WEIGHTINGS = ['constant', 'elbo'] as const;
export const LOG_RATIO_REDUCTIONS = ['mean', 'sum'] as const;

export type Objective = (typeof OBJECTIVES)[number];
export type Link = (typeof LINKS)[number];
export type PairWeight = (typeof PAIR_WEIGHTS)[number];
export type WeightRatio = (typeof WEIGHT_RATIOS)[number];
export type Scope = (typeof SCOPES)[number];
export type NonFinitePolicy = (typeof NON_FINITE_POLICIES)[number];
export type TimestepWeighting = (typeof TIMESTEP_WEIGHTINGS)[number];
export type LogRatioReduction = (typeof LOG_RATIO_REDUCTIONS)[number];

/**
 * Options of {@link PreferenceLoss}. Symbols as in docs/mathematics.md: m mean squared error of the policy, δ = m - r its excess over the
 * reference, q mean squared distance to the reference, ψ the implicit reward, λ the log weight, w = e^λ.
 */
export interface PreferenceLossOptions {
  /**
   * `diffusion-dpo`: f(ψ_c - ψ_r) (arXiv 2311.12908, eq. 14). `dpo-cm`: clip(pair weight) · f(ψ_c - ψ_r) on kept rows. `sdpo`:
   * f(clip(w_c) ψ_c - clip(w_r) ψ_r) on kept rows (both arXiv 2505.21893).
   */
  objective: Objective;
  /** Gives ω of a timestep. Needed unless every batch brings its own `transition.omega`. */
  schedule?: NoiseSchedule;
  /** β > 0, the strength of the KL regularisation. With `constant` weighting ψ = -(β/2) δ, with `elbo` ψ = -β ω δ. No default is honest across models. */
  beta: number;
  /** Bounds of the weight: ε for [1-ε, 1+ε] (not below 0), or [low, high]. Default 0.1. For `dpo-cm` and `sdpo`. */
  clipRange?: number | readonly [low: number, high: number];
  /** τ in [0, 1]: a row is removed where either weight is below it; 0 switches the mask off. Default 0.9. For `dpo-cm` and `sdpo`. */
  maskThreshold?: number;
  /** κ > 0: multiplies λ. Default 1. For `dpo-cm` and `sdpo`. */
  weightSharpness?: number;
  /** Which density ratio the weight is: λ ∝ m, δ or r. Default 'policy/data'. For `dpo-cm` and `sdpo`. */
  weightRatio?: WeightRatio;
  /** How the two weights become one, formed in log space. Default 'geometric'. For `dpo-cm`. */
  pairWeight?: PairWeight;
  /** true: gradients flow through the weight too. Degenerate with `dpo-cm`, which can then lower its loss by raising errors. Default false. For `dpo-cm` and `sdpo`. */
  weightGradient?: boolean;
  /** 'constant' (Diffusion-DPO as trained in practice) or 'elbo' (ψ scales with ω_t). Default 'constant'. */
  timestepWeighting?: TimestepWeighting;
  /** 'mean' over the D elements of a row, or 'sum': ω is multiplied by D (by the sum of the element weights) in the log-ratio and in λ. Default 'mean'. */
  logRatioReduction?: LogRatioReduction;
  /** f: 'sigmoid' -log σ(z), 'hinge' max(0, 1-z), 'ipo' (z/β - 1/(2β))². Default 'sigmoid'. */
  link?: Link;
  /** α in [0, 0.5]: probability that a pair is labelled the wrong way round. Default 0. For the sigmoid link. */
  labelSmoothing?: number;
  /** Weight ≥ 0 of the anchor m_c on the rows of `sftScope`. Default 0. */
  sftWeight?: number;
  /** 'all' rows, or the 'masked' (removed) ones. Default 'all'. */
  sftScope?: Scope;
  /** Weight ≥ 0 of the anchor q_c + q_r on the rows of `klScope`. Default 0. Needs reference tensors. */
  klWeight?: number;
  /** 'all' rows, or the 'masked' (removed) ones. Default 'all'. */
  klScope?: Scope;
  /** What a non-finite value does: 'throw' an error that says where, 'skip' the row (removed and counted), or 'propagate'. Default 'throw'. */
  nonFinite?: NonFinitePolicy;
  /** Threads of the CPU backend; default SDPO_NUM_THREADS or all cores. The result does not depend on it. */
  threads?: number;
}

/** Options with every default filled in and the clip range as its two bounds. */
export type ResolvedOptions = Readonly<
  Required<Omit<PreferenceLossOptions, 'schedule' | 'clipRange' | 'threads'>> & {
    schedule: NoiseSchedule | undefined;
    clipRange: readonly [low: number, high: number];
    /** 0: the default of the machine. */
    threads: number;
  }
>;

// biome-ignore format: names read best in rows
const NAMES: readonly (keyof PreferenceLossOptions)[] = [
  'objective', 'schedule', 'beta', 'clipRange', 'maskThreshold', 'weightSharpness', 'weightRatio', 'pairWeight',
  'weightGradient', 'timestepWeighting', 'logRatioReduction', 'link', 'labelSmoothing', 'sftWeight', 'sftScope',
  'klWeight', 'klScope', 'nonFinite', 'threads',
];

/** Which objectives an option belongs to; options that are not listed belong to all. */
export const USED_BY: { readonly [K in keyof PreferenceLossOptions]?: readonly Objective[] } = {
  clipRange: ['dpo-cm', 'sdpo'],
  maskThreshold: ['dpo-cm', 'sdpo'],
  weightSharpness: ['dpo-cm', 'sdpo'],
  weightRatio: ['dpo-cm', 'sdpo'],
  weightGradient: ['dpo-cm', 'sdpo'],
  pairWeight: ['dpo-cm'],
};

const DEFAULT_CLIP = 0.1;

/** Whether the objective has a mask at all. */
export function hasMask(objective: Objective): boolean {
  return USED_BY.maskThreshold!.includes(objective);
}

/** Checks options and fills in the defaults. */
export function resolveOptions(options: PreferenceLossOptions): ResolvedOptions {
  checkOptions('options', options, NAMES);
  const at = (name: keyof PreferenceLossOptions) => `options.${name}`;
  const objective = checkOneOf(at('objective'), options.objective, OBJECTIVES);
  if (options.schedule !== undefined && !(options.schedule instanceof NoiseSchedule)) {
    failType(at('schedule'), 'a NoiseSchedule', options.schedule);
  }
  const resolved: ResolvedOptions = {
    objective,
    schedule: options.schedule,
    beta: checkNumberAbove(at('beta'), options.beta, 0),
    clipRange: checkClipRange(at('clipRange'), options.clipRange ?? DEFAULT_CLIP),
    maskThreshold: checkNumber(at('maskThreshold'), options.maskThreshold ?? 0.9, 0, 1),
    weightSharpness: checkNumberAbove(at('weightSharpness'), options.weightSharpness ?? 1, 0),
    weightRatio: checkOneOf(at('weightRatio'), options.weightRatio ?? 'policy/data', WEIGHT_RATIOS),
    pairWeight: checkOneOf(at('pairWeight'), options.pairWeight ?? 'geometric', PAIR_WEIGHTS),
    weightGradient: checkBoolean(at('weightGradient'), options.weightGradient ?? false),
    timestepWeighting: checkOneOf(
      at('timestepWeighting'),
      options.timestepWeighting ?? 'constant',
      TIMESTEP_WEIGHTINGS,
    ),
    logRatioReduction: checkOneOf(at('logRatioReduction'), options.logRatioReduction ?? 'mean', LOG_RATIO_REDUCTIONS),
    link: checkOneOf(at('link'), options.link ?? 'sigmoid', LINKS),
    labelSmoothing: checkNumber(at('labelSmoothing'), options.labelSmoothing ?? 0, 0, 0.5),
    sftWeight: checkNumber(at('sftWeight'), options.sftWeight ?? 0, 0),
    sftScope: checkOneOf(at('sftScope'), options.sftScope ?? 'all', SCOPES),
    klWeight: checkNumber(at('klWeight'), options.klWeight ?? 0, 0),
    klScope: checkOneOf(at('klScope'), options.klScope ?? 'all', SCOPES),
    nonFinite: checkOneOf(at('nonFinite'), options.nonFinite ?? 'throw', NON_FINITE_POLICIES),
    threads: options.threads === undefined ? 0 : checkInteger(at('threads'), options.threads, 1, 4096),
  };
  refuseUnused(options, resolved);
  return Object.freeze(resolved);
}

function checkClipRange(argument: string, value: unknown): readonly [number, number] {
  if (typeof value === 'number') {
    checkNumber(argument, value, 0);
    return [Math.max(0, 1 - value), 1 + value];
  }
  if (!Array.isArray(value) || value.length !== 2) failType(argument, 'a number or [low, high]', value);
  const low = checkNumber(`${argument}[0]`, value[0], 0);
  const high = checkNumber(`${argument}[1]`, value[1], 0);
  if (low > high) failValue(argument, '[low, high] with low <= high', JSON.stringify(value));
  return [low, high];
}

/** An option that the objective or the link does not use must not look as if it did something. */
function refuseUnused(options: PreferenceLossOptions, resolved: ResolvedOptions): void {
  const defaults: { readonly [K in keyof ResolvedOptions]?: unknown } = {
    maskThreshold: 0.9,
    weightSharpness: 1,
    weightRatio: 'policy/data',
    weightGradient: false,
    pairWeight: 'geometric',
  };
  for (const [name, users] of Object.entries(USED_BY) as [keyof PreferenceLossOptions, readonly Objective[]][]) {
    if (users.includes(resolved.objective) || options[name] === undefined) continue;
    const unchanged =
      name === 'clipRange'
        ? resolved.clipRange[0] === 1 - DEFAULT_CLIP && resolved.clipRange[1] === 1 + DEFAULT_CLIP
        : resolved[name] === defaults[name];
    if (!unchanged) {
      throw new SdpoRangeError(
        'ERR_SDPO_INVALID_OPTION',
        `Expected options.${name} to be left at its default, since objective '${resolved.objective}' does not use it, received ${describe(options[name])}`,
      );
    }
  }
  if (resolved.link !== 'sigmoid' && resolved.labelSmoothing !== 0) {
    throw new SdpoRangeError(
      'ERR_SDPO_INVALID_OPTION',
      `Expected options.labelSmoothing to be 0, since link '${resolved.link}' does not use it, received ${resolved.labelSmoothing}`,
    );
  }
}
