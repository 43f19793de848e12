/** Options of a preference loss: their meaning, their defaults, and which objective uses which. */

import { SdpoRangeError } from '../native/errors.js';
import {
  checkBoolean,
  checkInteger,
  checkNumber,
  checkNumberAbove,
  checkNumberBetween,
  checkOneOf,
  checkOptions,
  describe,
  failType,
  failValue,
} from '../native/validate.js';
import { NoiseSchedule } from '../schedule/schedule.js';

/** Names in the order of the native tables; compared when the addon is loaded. */
export const OBJECTIVES = ['diffusion-dpo', 'dpo-cm', 'sdpo', 'dspo', 'dmpo', 'mapo'] as const;
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
   * f(clip(w_c) ψ_c - clip(w_r) ψ_r) on kept rows (both arXiv 2505.21893). `dspo`: mean (d_c - s h_c)² with s = β σ(ψ_r - ψ_c). `dmpo`:
   * KL(Bernoulli(σ(ψ_c - ψ_r)) ‖ Bernoulli(1 - α)). `mapo`: m_c - β log σ(T (φ(s m_c) - φ(s m_r))), without a reference (arXiv 2406.06424).
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
  /**
   * μ in [0, 1]: scales the rejected branch's gradient (not the loss) by min(1, (1-μ) m_c / x) where x = mean d_c d_r > 0. Where a step moves both
   * predictions alike and the two coefficients A are opposite, the rejected gradient then takes at most the share 1-μ away from the first-order
   * change of the winner's error (Diffusion-SDPO, arXiv 2511.03317, per pair). Default: off.
   */
  safeguard?: number;
  /** α in (0, 1): probability of the wrong preference in the target distribution. Default 0.01. For `dmpo`. */
  dmpoAlpha?: number;
  /** s > 0 in φ(s m). Default 0.5. For `mapo`. */
  mapoScale?: number;
  /** T > 0, the factor of the margin. Default the schedule's number of training timesteps, or 1000 without a schedule. For `mapo`. */
  mapoSteps?: number;
  /** What a non-finite value does: 'throw' an error that says where, 'skip' the row (removed and counted), or 'propagate'. Default 'throw'. */
  nonFinite?: NonFinitePolicy;
  /** Threads of the CPU backend; default SDPO_NUM_THREADS or all cores. The result does not depend on it. */
  threads?: number;
}

/** Options with every default filled in and the clip range as its two bounds. */
export type ResolvedOptions = Readonly<
  Required<Omit<PreferenceLossOptions, 'schedule' | 'clipRange' | 'threads' | 'safeguard'>> & {
    schedule: NoiseSchedule | undefined;
    clipRange: readonly [low: number, high: number];
    /** 0: the default of the machine. */
    threads: number;
    safeguard: number | undefined;
  }
>;

const PAIRWISE = ['diffusion-dpo', 'dpo-cm', 'sdpo'] as const;
const WEIGHTED = ['dpo-cm', 'sdpo'] as const;
const WITH_REFERENCE = ['diffusion-dpo', 'dpo-cm', 'sdpo', 'dspo', 'dmpo'] as const;

/** Defaults, and which objectives an option belongs to where it does not belong to all. */
const OPTIONS = {
  clipRange: { default: 0.1, users: WEIGHTED },
  maskThreshold: { default: 0.9, users: WEIGHTED },
  weightSharpness: { default: 1, users: WEIGHTED },
  weightRatio: { default: 'policy/data', users: WEIGHTED },
  weightGradient: { default: false, users: WEIGHTED },
  pairWeight: { default: 'geometric', users: ['dpo-cm'] },
  timestepWeighting: { default: 'constant', users: WITH_REFERENCE },
  logRatioReduction: { default: 'mean', users: WITH_REFERENCE },
  link: { default: 'sigmoid', users: PAIRWISE },
  labelSmoothing: { default: 0, users: PAIRWISE },
  dmpoAlpha: { default: 0.01, users: ['dmpo'] },
  mapoScale: { default: 0.5, users: ['mapo'] },
  mapoSteps: { default: 1000, users: ['mapo'] },
  sftWeight: { default: 0 },
  sftScope: { default: 'all' },
  klWeight: { default: 0 },
  klScope: { default: 'all' },
  nonFinite: { default: 'throw' },
} as const satisfies { [K in keyof PreferenceLossOptions]?: { default: unknown; users?: readonly Objective[] } };

/** The objectives of every option that does not belong to all, for checks of other language bindings. */
export const USED_BY: { readonly [option: string]: readonly Objective[] } = Object.fromEntries(
  Object.entries(OPTIONS).flatMap(([name, option]) => ('users' in option ? [[name, option.users]] : [])),
);

const NAMES: readonly string[] = ['objective', 'schedule', 'beta', 'safeguard', 'threads', ...Object.keys(OPTIONS)];

/** Whether the objective has a mask at all. */
export function hasMask(objective: Objective): boolean {
  return (WEIGHTED as readonly Objective[]).includes(objective);
}

/** Whether the objective can do without any reference. */
export function isReferenceFree(objective: Objective): boolean {
  return objective === 'mapo';
}

/** Checks options and fills in the defaults. */
export function resolveOptions(options: PreferenceLossOptions): ResolvedOptions {
  checkOptions('options', options, NAMES);
  const at = (name: keyof PreferenceLossOptions) => `options.${name}`;
  const objective = checkOneOf(at('objective'), options.objective, OBJECTIVES);
  if (options.schedule !== undefined && !(options.schedule instanceof NoiseSchedule)) {
    failType(at('schedule'), 'a NoiseSchedule', options.schedule);
  }
  const given = <K extends keyof typeof OPTIONS>(name: K) =>
    options[name] === undefined ? OPTIONS[name].default : options[name];
  const resolved: ResolvedOptions = {
    objective,
    schedule: options.schedule,
    beta: checkNumberAbove(at('beta'), options.beta, 0),
    clipRange: checkClipRange(at('clipRange'), given('clipRange')),
    maskThreshold: checkNumber(at('maskThreshold'), given('maskThreshold'), 0, 1),
    weightSharpness: checkNumberAbove(at('weightSharpness'), given('weightSharpness'), 0),
    weightRatio: checkOneOf(at('weightRatio'), given('weightRatio'), WEIGHT_RATIOS),
    pairWeight: checkOneOf(at('pairWeight'), given('pairWeight'), PAIR_WEIGHTS),
    weightGradient: checkBoolean(at('weightGradient'), given('weightGradient')),
    timestepWeighting: checkOneOf(at('timestepWeighting'), given('timestepWeighting'), TIMESTEP_WEIGHTINGS),
    logRatioReduction: checkOneOf(at('logRatioReduction'), given('logRatioReduction'), LOG_RATIO_REDUCTIONS),
    link: checkOneOf(at('link'), given('link'), LINKS),
    labelSmoothing: checkNumber(at('labelSmoothing'), given('labelSmoothing'), 0, 0.5),
    sftWeight: checkNumber(at('sftWeight'), given('sftWeight'), 0),
    sftScope: checkOneOf(at('sftScope'), given('sftScope'), SCOPES),
    klWeight: checkNumber(at('klWeight'), given('klWeight'), 0),
    klScope: checkOneOf(at('klScope'), given('klScope'), SCOPES),
    safeguard: options.safeguard === undefined ? undefined : checkNumber(at('safeguard'), options.safeguard, 0, 1),
    dmpoAlpha: checkNumberBetween(at('dmpoAlpha'), given('dmpoAlpha'), 0, 1),
    mapoScale: checkNumberAbove(at('mapoScale'), given('mapoScale'), 0),
    mapoSteps: checkNumberAbove(
      at('mapoSteps'),
      options.mapoSteps ?? options.schedule?.trainSteps ?? OPTIONS.mapoSteps.default,
      0,
    ),
    nonFinite: checkOneOf(at('nonFinite'), given('nonFinite'), NON_FINITE_POLICIES),
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
  const { objective, link } = resolved;
  for (const [name, option] of Object.entries(OPTIONS) as [keyof typeof OPTIONS, { users?: readonly Objective[] }][]) {
    if (option.users === undefined || option.users.includes(objective)) continue;
    if (options[name] !== undefined && !sameValue(name, options[name])) {
      refuse(`options.${name}`, `objective '${objective}'`, options[name]);
    }
  }
  if (link !== 'sigmoid' && resolved.labelSmoothing !== 0) {
    refuse('options.labelSmoothing', `link '${link}'`, resolved.labelSmoothing);
  }
}

function sameValue(name: keyof typeof OPTIONS, value: unknown): boolean {
  if (name !== 'clipRange') return value === OPTIONS[name].default;
  return String(checkClipRange(name, value)) === String(checkClipRange(name, OPTIONS.clipRange.default));
}

function refuse(argument: string, user: string, value: unknown): never {
  throw new SdpoRangeError(
    'ERR_SDPO_INVALID_OPTION',
    `Expected ${argument} to be left at its default, since ${user} does not use it, received ${describe(value)}`,
  );
}
