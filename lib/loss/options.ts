/** Options of a preference loss: their meaning, and one table with their types, bounds, defaults and users. */

import { binding } from '../native/binding.js';
import { checkList } from '../native/contract.js';
import { SdpoRangeError } from '../native/errors.js';
import {
  LINKS,
  type Link,
  LOG_RATIO_REDUCTIONS,
  type LogRatioReduction,
  NON_FINITE_POLICIES,
  type NonFinitePolicy,
  PAIR_WEIGHTS,
  type PairWeight,
  SAFEGUARD_SCOPES,
  type SafeguardScope,
  SCOPES,
  type Scope,
  TIMESTEP_WEIGHTINGS,
  type TimestepWeighting,
  WEIGHT_RATIOS,
  type WeightRatio,
} from '../native/names.js';
import {
  checkBoolean,
  checkInteger,
  checkNumber,
  checkNumberAbove,
  checkNumberBelow,
  checkNumberBetween,
  checkOneOf,
  checkOptions,
  describe,
  type Filled,
  failType,
  failValue,
} from '../native/validate.js';
import { NoiseSchedule } from '../schedule/schedule.js';

/** The objectives, in the order of the addon's list. */
export const OBJECTIVES = ['diffusion-dpo', 'dpo-cm', 'sdpo', 'dspo', 'dmpo', 'mapo', 'linear-dpo'] as const;
export type Objective = (typeof OBJECTIVES)[number];
checkList('objectives', OBJECTIVES, binding.tables.objectives);

/**
 * Options of {@link PreferenceLoss}. Symbols as in docs/mathematics.md: m mean squared error of the policy, δ = m - r its excess over the
 * reference, q mean squared distance to the reference, ψ the implicit reward, λ the log weight, w = e^λ.
 */
export interface PreferenceLossOptions {
  /**
   * `diffusion-dpo`: f(ψ_c - ψ_r) (arXiv 2311.12908). `dpo-cm`: clip(pair weight) · f(ψ_c - ψ_r) on kept rows. `sdpo`:
   * f(clip(w_c) ψ_c - clip(w_r) ψ_r) on kept rows (both our reading of arXiv 2505.21893). `dspo`: mean (d_c - s h_c)² with s = β σ(ψ_r - ψ_c). `dmpo`:
   * KL(Bernoulli(σ(ψ_c - ψ_r)) ‖ Bernoulli(1 - α)). `mapo`: m_c - β log σ(T (φ(s m_c) - φ(s m_r))), without a reference (arXiv 2406.06424).
   * `linear-dpo`: sg[min(max(½ - 0.4 (ψ_c - ψ_r), η), 1-η)] (m_c - m_r) (arXiv 2605.21123).
   */
  objective: Objective;
  /** Gives ω of a timestep. Needed by objectives with weights and by `elbo` weighting, unless every batch brings its own `transition.omega`. */
  schedule?: NoiseSchedule | undefined;
  /** β > 0, the strength of the KL regularisation. With `constant` weighting ψ = -(β/2) δ, with `elbo` ψ = -β ω δ. No default is honest across models. */
  beta: number;
  /** Bounds of the weight: ε for [1-ε, 1+ε] (not below 0), or [low, high]. Default 0.1. For `dpo-cm` and `sdpo`. */
  clipRange?: number | readonly [low: number, high: number] | undefined;
  /** τ in [0, 1]: a row is removed where either weight is below it; 0 switches the mask off. Default 0.9. For `dpo-cm` and `sdpo`. */
  maskThreshold?: number | undefined;
  /** κ > 0: multiplies λ. Default 1. For `dpo-cm` and `sdpo`. */
  weightSharpness?: number | undefined;
  /** e, any finite number: the weight is exp(e λ), and 1 where e is 0. The mask goes on looking at λ. Default 1. For `dpo-cm` and `sdpo`. */
  weightExponent?: number | undefined;
  /** Which density ratio the weight is: λ ∝ m, δ or r. Default 'policy/data'. For `dpo-cm` and `sdpo`. */
  weightRatio?: WeightRatio | undefined;
  /**
   * How the two weights become one, formed in log space. For `dpo-cm`, default 'geometric', and for `sdpo`, whose loss then is
   * f(clip(pair) · (ψ_c - ψ_r)); without it `sdpo` has one weight per branch.
   */
  pairWeight?: PairWeight | undefined;
  /** true: gradients flow through the weight too. Degenerate with `dpo-cm`, which can then lower its loss by raising errors. Default false. For `dpo-cm` and `sdpo`. */
  weightGradient?: boolean | undefined;
  /** 'constant' (Diffusion-DPO as trained in practice) or 'elbo' (ψ scales with ω_t). Default 'constant'. */
  timestepWeighting?: TimestepWeighting | undefined;
  /** 'mean' over the D elements of a row, or 'sum': ω is multiplied by D (by the sum of the element weights) in the log-ratio and in λ. Default 'mean'. */
  logRatioReduction?: LogRatioReduction | undefined;
  /**
   * Bounds of the exponential of each branch's log-ratio ℓ before it becomes ψ: ε for [1-ε, 1+ε] (not below 0), or [low, high]; the derivative is 0
   * outside and on an edge (D3PO, arXiv 2311.13231; a possible reading of DPO-C&M). Default: off.
   */
  logRatioClip?: number | readonly [low: number, high: number] | undefined;
  /** [low, high], both included: rows with a timestep of either branch outside are removed, as by the mask. Default: every timestep. */
  timestepWindow?: readonly [low: number, high: number] | undefined;
  /** f: 'sigmoid' -log σ(z), 'hinge' max(0, 1-z), 'ipo' (z/β - 1/(2β))². Default 'sigmoid'. */
  link?: Link | undefined;
  /** α in [0, 0.5]: probability that a pair is labelled the wrong way round. Default 0. For the sigmoid link. */
  labelSmoothing?: number | undefined;
  /** Weight ≥ 0 of the anchor m_c on the rows of `sftScope`. Default 0. */
  sftWeight?: number | undefined;
  /** 'all' rows, or the 'masked' (removed) ones. Default 'all'. */
  sftScope?: Scope | undefined;
  /** Weight ≥ 0 of the anchor q_c + q_r on the rows of `klScope`. Default 0. Needs reference tensors. */
  klWeight?: number | undefined;
  /** 'all' rows, or the 'masked' (removed) ones. Default 'all'. */
  klScope?: Scope | undefined;
  /**
   * μ in [0, 1]: scales the rejected branch's gradient (not the loss) by min(1, (1-μ) m_c / x) where x = mean d_c d_r > 0. Where a step moves both
   * predictions alike and the two coefficients A are opposite, the rejected gradient then takes at most the share 1-μ away from the first-order
   * change of the winner's error (Diffusion-SDPO, arXiv 2511.03317, there with `safeguardScope` 'batch'). Default: off.
   */
  safeguard?: number | undefined;
  /** 'pair': a factor per row; 'batch': one for all rows, from the sums of m_c and x over the rows that are finite. Default 'pair'. */
  safeguardScope?: SafeguardScope | undefined;
  /** α in (0, 1): probability of the wrong preference in the target distribution. Default 0.01. For `dmpo`. */
  dmpoAlpha?: number | undefined;
  /** s > 0 in φ(s m). Default 0.5. For `mapo`. */
  mapoScale?: number | undefined;
  /** T > 0, the factor of the margin. Default the schedule's number of training timesteps, or 1000 without a schedule. For `mapo`. */
  mapoSteps?: number | undefined;
  /** η in [0, ½): the factor of the loss stays in [η, 1-η]. Default 0.01. For `linear-dpo`. */
  linearFloor?: number | undefined;
  /** What a non-finite value does: 'throw' an error that says where, 'skip' the row (removed and counted), or 'propagate'. Default 'throw'. */
  nonFinite?: NonFinitePolicy | undefined;
  /** Threads of the CPU backend; default SDPO_NUM_THREADS, else the processors that this process may use. The result does not depend on it. */
  threads?: number | undefined;
}

/** What an objective reads, by the addon. */
export const TRAITS = binding.traits as { readonly [K in Objective]: (typeof binding.traits)[string] };

/** Objectives whose traits fulfil a condition. */
const where = (condition: (traits: (typeof TRAITS)[Objective]) => boolean) =>
  OBJECTIVES.filter((objective) => condition(TRAITS[objective]));
const WEIGHTED = where(({ weights }) => weights > 0);
const WITH_REFERENCE = where(({ reference }) => reference);
const LINKED = where(({ link }) => link);

interface OptionRow {
  /** As in JSON Schema; 'range' is ε for [max(0, 1-ε), 1+ε] or [low, high] of numbers >= 0, 'interval' [low, high] of any numbers. */
  readonly type: 'number' | 'integer' | 'boolean' | 'enum' | 'range' | 'interval';
  readonly minimum?: number;
  readonly maximum?: number;
  readonly exclusiveMinimum?: number;
  readonly exclusiveMaximum?: number;
  readonly values?: readonly string[];
  readonly required?: true;
  /** Without a default the option is off. */
  readonly default?: unknown;
  /** The default is another one where the objective or the schedule says so. */
  readonly dependent?: true;
  /** The objectives that use it; absent: all. */
  readonly users?: readonly Objective[];
  /** Only with this link. */
  readonly link?: Link;
  /** Fields of the addon's options, where they are not the option's own name, and what stands for an option that is off. */
  readonly fields?: readonly string[];
  readonly off?: readonly number[];
  /** It is no option of the addon: a number per row, or a field of the call. */
  readonly crosses?: 'row' | 'call';
}

const EVERYTHING = [-Infinity, Infinity] as const;

/** Every option but the schedule, in the order in which they are checked. */
export const OPTIONS = {
  objective: { type: 'enum', values: OBJECTIVES, required: true },
  beta: { type: 'number', exclusiveMinimum: 0, required: true },
  clipRange: { type: 'range', default: 0.1, users: WEIGHTED, fields: ['clipLow', 'clipHigh'] },
  maskThreshold: { type: 'number', minimum: 0, maximum: 1, default: 0.9, users: WEIGHTED, crosses: 'row' },
  weightSharpness: { type: 'number', exclusiveMinimum: 0, default: 1, users: WEIGHTED },
  weightExponent: { type: 'number', default: 1, users: WEIGHTED },
  weightRatio: { type: 'enum', values: WEIGHT_RATIOS, default: 'policy/data', users: WEIGHTED },
  pairWeight: { type: 'enum', values: PAIR_WEIGHTS, default: 'geometric', dependent: true, users: WEIGHTED, off: [0] },
  weightGradient: { type: 'boolean', default: false, users: WEIGHTED },
  timestepWeighting: { type: 'enum', values: TIMESTEP_WEIGHTINGS, default: 'constant', users: WITH_REFERENCE },
  logRatioReduction: { type: 'enum', values: LOG_RATIO_REDUCTIONS, default: 'mean', users: WITH_REFERENCE },
  logRatioClip: {
    type: 'range',
    users: WITH_REFERENCE,
    fields: ['logRatioClipLow', 'logRatioClipHigh'],
    off: [0, Infinity],
  },
  timestepWindow: { type: 'interval', fields: ['windowLow', 'windowHigh'], off: EVERYTHING },
  link: { type: 'enum', values: LINKS, default: 'sigmoid', users: LINKED },
  labelSmoothing: { type: 'number', minimum: 0, maximum: 0.5, default: 0, users: LINKED, link: 'sigmoid' },
  sftWeight: { type: 'number', minimum: 0, default: 0 },
  sftScope: { type: 'enum', values: SCOPES, default: 'all' },
  klWeight: { type: 'number', minimum: 0, default: 0 },
  klScope: { type: 'enum', values: SCOPES, default: 'all' },
  safeguard: { type: 'number', minimum: 0, maximum: 1, off: [-1] },
  safeguardScope: { type: 'enum', values: SAFEGUARD_SCOPES, default: 'pair' },
  dmpoAlpha: { type: 'number', exclusiveMinimum: 0, exclusiveMaximum: 1, default: 0.01, users: ['dmpo'] },
  mapoScale: { type: 'number', exclusiveMinimum: 0, default: 0.5, users: ['mapo'] },
  mapoSteps: { type: 'number', exclusiveMinimum: 0, default: 1000, dependent: true, users: ['mapo'] },
  linearFloor: { type: 'number', minimum: 0, exclusiveMaximum: 0.5, default: 0.01, users: ['linear-dpo'] },
  nonFinite: { type: 'enum', values: NON_FINITE_POLICIES, default: 'throw' },
  threads: { type: 'integer', minimum: 1, maximum: 4096, off: [0], crosses: 'call' },
} as const satisfies { [K in keyof Required<Omit<PreferenceLossOptions, 'schedule'>>]: OptionRow };

export type OptionName = keyof typeof OPTIONS;
export const OPTION_NAMES = Object.keys(OPTIONS) as readonly OptionName[];
const row = (name: OptionName): OptionRow => OPTIONS[name];

/** The objectives of every option that does not belong to all. */
export const USED_BY = Object.fromEntries(
  OPTION_NAMES.flatMap((name) => {
    const { users } = row(name);
    return users === undefined ? [] : [[name, users]];
  }),
) as UsedBy;
type UsedBy = {
  readonly [K in OptionName as (typeof OPTIONS)[K] extends { users: unknown } ? K : never]: readonly Objective[];
};

/** Options with every default filled in, and ranges as their two bounds; what is off is undefined. */
export type ResolvedOptions = Readonly<
  Filled<
    Omit<
      PreferenceLossOptions,
      'schedule' | 'clipRange' | 'logRatioClip' | 'timestepWindow' | 'threads' | 'safeguard' | 'pairWeight'
    >
  > & {
    schedule: NoiseSchedule | undefined;
    clipRange: Bounds;
    logRatioClip: Bounds | undefined;
    timestepWindow: Bounds | undefined;
    /** undefined for `sdpo` with a weight per branch. */
    pairWeight: PairWeight | undefined;
    /** 0: the default of the machine. */
    threads: number;
    safeguard: number | undefined;
  }
>;

/** @inline */
type Bounds = readonly [low: number, high: number];

/** Whether the objective has a mask at all. */
export function hasMask(objective: Objective): boolean {
  return TRAITS[objective].weights > 0;
}

/** Whether the objective can do without any reference. */
export function isReferenceFree(objective: Objective): boolean {
  return !TRAITS[objective].reference;
}

/** Whether the loss reads `betaScale` of a row. */
export function readsBetaScale(objective: Objective): boolean {
  return TRAITS[objective].rowInputs.includes('betaScaleChosen');
}

/** Whether the loss reads ω of a row. */
export function readsOmega({ objective, timestepWeighting }: ResolvedOptions): boolean {
  return TRAITS[objective].weights > 0 || timestepWeighting === 'elbo';
}

/** Checks options and fills in the defaults. */
export function resolveOptions(options: PreferenceLossOptions): ResolvedOptions {
  options = checkOptions('options', options, ['schedule', ...OPTION_NAMES]);
  // Each is read once: a getter could give another value the next time.
  const given: { readonly [name: string]: unknown } = { ...options };
  const { schedule } = given;
  if (schedule !== undefined && !(schedule instanceof NoiseSchedule)) {
    failType('options.schedule', 'a NoiseSchedule', schedule);
  }
  const resolved: { [name: string]: unknown } = { schedule };
  for (const name of OPTION_NAMES) {
    const { required } = row(name);
    const value = given[name];
    resolved[name] =
      value === undefined && !required ? defaultOf(name, resolved) : checkOption(`options.${name}`, name, value);
  }
  if (resolved.threads === undefined) resolved.threads = 0;
  const out = resolved as unknown as ResolvedOptions;
  refuseUnused(given, out);
  return Object.freeze(out);
}

function defaultOf(name: OptionName, { objective, schedule }: { readonly [name: string]: unknown }): unknown {
  if (name === 'pairWeight' && TRAITS[objective as Objective].weights === 2) return undefined;
  if (name === 'mapoSteps' && schedule !== undefined) return (schedule as NoiseSchedule).trainSteps;
  const value = row(name).default;
  return value === undefined ? undefined : checkOption(`options.${name}`, name, value);
}

/** A value of an option as it is kept; throws in the message shape of this package. */
export function checkOption(argument: string, name: OptionName, value: unknown): unknown {
  const { type, values = [], minimum = -Infinity, maximum } = row(name);
  switch (type) {
    case 'enum':
      return checkOneOf(argument, value, values);
    case 'boolean':
      return checkBoolean(argument, value);
    case 'integer':
      return checkInteger(argument, value, minimum, maximum);
    case 'range':
      return checkRange(argument, value);
    case 'interval':
      return checkInterval(argument, value, 'finite numbers', -Infinity);
    case 'number':
      return checkBounded(argument, value, row(name));
  }
}

function checkBounded(argument: string, value: unknown, bounds: OptionRow): number {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = bounds;
  if (exclusiveMaximum === undefined) {
    return exclusiveMinimum === undefined
      ? checkNumber(argument, value, minimum, maximum)
      : checkNumberAbove(argument, value, exclusiveMinimum);
  }
  return exclusiveMinimum === undefined
    ? checkNumberBelow(argument, value, minimum ?? -Infinity, exclusiveMaximum)
    : checkNumberBetween(argument, value, exclusiveMinimum, exclusiveMaximum);
}

function checkRange(argument: string, value: unknown): Bounds {
  if (typeof value !== 'number') return checkInterval(argument, value, 'a number', 0);
  checkNumber(argument, value, 0);
  return [Math.max(0, 1 - value), 1 + value];
}

function checkInterval(argument: string, value: unknown, otherwise: string, minimum: number): Bounds {
  if (!Array.isArray(value) || value.length !== 2) {
    failType(argument, otherwise === 'a number' ? 'a number or [low, high]' : `[low, high] of ${otherwise}`, value);
  }
  const [first, second] = value as readonly unknown[];
  const low = checkNumber(`${argument}[0]`, first, minimum);
  const high = checkNumber(`${argument}[1]`, second, minimum);
  if (low > high) failValue(argument, '[low, high] with low <= high', JSON.stringify(value));
  return [low, high];
}

/** An option that the objective or the link does not use must not look as if it did something. */
function refuseUnused(given: { readonly [name: string]: unknown }, resolved: ResolvedOptions): void {
  const { objective } = resolved;
  for (const name of OPTION_NAMES) {
    if (given[name] === undefined) continue;
    const { users, link } = row(name);
    const user =
      users !== undefined && !users.includes(objective)
        ? `objective '${objective}'`
        : link !== undefined && link !== resolved.link
          ? `link '${resolved.link}'`
          : undefined;
    if (user !== undefined && !isDefault(name, given[name])) refuse(`options.${name}`, user, given[name]);
  }
}

function isDefault(name: OptionName, value: unknown): boolean {
  const { default: usual } = row(name);
  if (usual === undefined) return false;
  return String(checkOption(name, name, value)) === String(checkOption(name, name, usual));
}

function refuse(argument: string, user: string, value: unknown): never {
  throw new SdpoRangeError(
    'ERR_SDPO_INVALID_OPTION',
    `Expected ${argument} to be left at its default, since ${user} does not use it, received ${describe(value)}`,
  );
}

// ---- How options cross

const CROSSING = OPTION_NAMES.filter((name) => row(name).crosses === undefined);
const fieldsOf = (name: OptionName) => row(name).fields ?? [name];

// The addon's order is its own; its names are those of this table, or it was built from other sources.
checkList('options', CROSSING.flatMap(fieldsOf).sort(), [...binding.tables.options].sort());

/** Writes the options into the part of a header that is theirs. */
export function writeOptions(header: Float64Array, offset: number, options: ResolvedOptions): void {
  for (const name of CROSSING) {
    const { off } = row(name);
    const value: unknown = options[name];
    const numbers = value === undefined && off !== undefined ? off : numbersOf(name, value);
    fieldsOf(name).forEach((field, i) => {
      header[offset + binding.tables.options.indexOf(field)] = numbers[i]!;
    });
  }
}

function numbersOf(name: OptionName, value: unknown): readonly number[] {
  const { type, values = [] } = row(name);
  if (type === 'range' || type === 'interval') return value as Bounds;
  // The addon's list of an enumeration that can be off starts with what that is.
  if (type === 'enum') return [values.indexOf(value as string) + (row(name).off?.length ?? 0)];
  return [Number(value)];
}
