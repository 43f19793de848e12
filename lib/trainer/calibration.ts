/** From measured errors to options of the loss: the sharpness or threshold that keeps a fraction of the rows, and a β to start a search from. */

import type { CalibrationRow } from './calibration-row.js';
import { betaOfTrial, type CalibrationTrial, type runTrial, type Trial } from './calibration-trial.js';
import { binOf } from './timestep-bins.js';

/** What a calibration is asked for; all given. */
export interface CalibrationGoal {
  readonly keep: number;
  readonly tau: number | undefined;
  readonly kappa: number | undefined;
  readonly edges: readonly number[];
  /** Factor of ω: 1 for `logRatioReduction: 'mean'`, D for 'sum'. */
  readonly reduction: number;
  readonly timestepWeighting: 'constant' | 'elbo';
  readonly relativeImprovement: number;
  readonly logitSpread: number;
}

/** One bin of timesteps. */
export interface CalibrationBin {
  /** Timesteps from <= t < to; the ends are -∞ and ∞. */
  readonly from: number;
  readonly to: number;
  readonly rows: number;
  /** Rows without a density ratio (ω = ∞), which a mask always removes. */
  readonly removedAlways: number;
  /** Median mean squared errors; NaN without rows, as the numbers below. */
  readonly errorChosen: number;
  readonly errorRejected: number;
  /** Fraction of rows kept with the `kappa` and `tau` of the whole. */
  readonly keepFraction: number;
  /** κ that would keep the wanted fraction of this bin at the τ of the whole. */
  readonly kappa: number;
  /** τ that would keep the wanted fraction of this bin at the κ of the whole. */
  readonly tau: number;
}

export interface Calibration {
  readonly rows: number;
  /** The fraction that was asked for. */
  readonly keep: number;
  /** The fraction of the measured rows that `kappa` and `tau` keep. */
  readonly keepFraction: number;
  /** κ, `weightSharpness`: given, or proposed. NaN where none can be. */
  readonly kappa: number;
  /** τ, `maskThreshold`: given, or proposed. */
  readonly tau: number;
  /** β to start a search from. NaN where the branches' errors do not differ. */
  readonly beta: number;
  /** Where β is from: a trial, or the assumption of `relativeImprovement`. */
  readonly betaFrom: 'trial' | 'assumption';
  /** What the trial found, where there was one that could be measured. */
  readonly trial?: CalibrationTrial;
  readonly timestepWeighting: 'constant' | 'elbo';
  readonly bins: readonly CalibrationBin[];
  /** What somebody should know before using this. */
  readonly warnings: readonly string[];
}

/** Below and above these fractions a mask hardly trains, or hardly masks. */
const FEW = 0.05;
const NEARLY_ALL = 0.99;
const DEFAULT_TAU = 0.9;

/**
 * Proposes κ and τ such that the wanted fraction of the rows is kept, κ ω max(m_c, m_r) <= -ln τ (docs/mathematics.md, section 4), and β.
 *
 * The bound lies halfway between the last row that is kept and the first that is not, so that rounding moves no row across it.
 */
export function calibrationOf(
  measured: readonly CalibrationRow[],
  goal: CalibrationGoal,
  tried?: TrialResult | undefined,
): Calibration {
  const warnings: string[] = [];
  const usable = measured.filter(
    ({ errorChosen, errorRejected }) => Number.isFinite(errorChosen) && Number.isFinite(errorRejected),
  );
  if (usable.length < measured.length) {
    warnings.push(
      `${measured.length - usable.length} of ${measured.length} rows have an error that is not finite and were left out`,
    );
  }
  const costs = costsOf(usable, goal);
  const bound = boundOf(costs, goal.keep);
  const { kappa, tau } = settle(goal, bound);
  const keepFraction = keptOf(costs, kappa, tau);
  const finite = costs.filter(Number.isFinite).length;
  if (finite < Math.round(goal.keep * costs.length)) {
    warnings.push(
      `only ${percent(finite / costs.length)} of the rows have a density ratio (ω is infinite for the others), so ${percent(goal.keep)} cannot be kept`,
    );
  }
  if (Number.isNaN(bound))
    warnings.push('no row has an error above 0 and a density ratio, so neither κ nor τ can be proposed');
  if (goal.kappa !== undefined && goal.tau !== undefined) {
    const better = `weightSharpness ${short(-Math.log(tau) / bound)} would keep ${percent(goal.keep)}`;
    if (keepFraction < FEW)
      warnings.push(
        `the given κ and τ keep ${percent(keepFraction)} of the rows, below 5 %: hardly anything is learnt; ${better}`,
      );
    if (keepFraction > NEARLY_ALL)
      warnings.push(
        `the given κ and τ keep ${percent(keepFraction)} of the rows, above 99 %: the mask does nothing; ${better}`,
      );
  }
  const bins = binsOf(usable, goal, kappa, tau);
  for (const bin of bins) {
    if (bin.rows === 0) warnings.push(`no row fell into ${rangeOf(bin)}`);
    else if (bin.keepFraction < FEW) {
      warnings.push(
        `${rangeOf(bin)}: ${percent(bin.keepFraction)} of the rows are kept, below 5 %, so hardly anything is learnt there`,
      );
    }
  }
  const found = tried && triedBeta(measured, goal, tried);
  if (typeof found?.beta === 'string') {
    warnings.push(`β is from the assumed improvement and not from the trial: ${found.beta}`);
  }
  const betaFrom = typeof found?.beta === 'number' ? 'trial' : 'assumption';
  const beta = typeof found?.beta === 'number' ? found.beta : betaOf(usable, goal);
  if (Number.isNaN(beta)) warnings.push('the errors of the branches do not differ, so no β can be proposed');
  const { keep, timestepWeighting } = goal;
  return {
    ...{ rows: usable.length, keep, keepFraction, kappa, tau, beta, betaFrom },
    ...(found?.trial === undefined ? {} : { trial: found.trial }),
    ...{ timestepWeighting, bins, warnings },
  };
}

/** ω max(m_c, m_r) of each row, ascending; ∞ where ω is, whatever the errors are. */
function costsOf(rows: readonly CalibrationRow[], { reduction }: CalibrationGoal): Float64Array {
  return Float64Array.from(rows, ({ omega, errorChosen, errorRejected }) =>
    omega === Infinity ? Infinity : omega * reduction * Math.max(errorChosen, errorRejected),
  ).sort();
}

/** The cost up to which the wanted fraction of the rows lies; NaN where there is none above 0. */
function boundOf(costs: Float64Array, keep: number): number {
  const finite = costs.indexOf(Infinity) === -1 ? costs.length : costs.indexOf(Infinity);
  const kept = Math.min(Math.round(keep * costs.length), finite);
  if (finite === 0) return NaN;
  const inside = kept === 0 ? 0 : costs[kept - 1]!;
  const outside = kept < finite ? costs[kept]! : inside;
  const bound = inside + (outside - inside) / 2;
  return bound > 0 ? bound : NaN;
}

function settle(goal: CalibrationGoal, bound: number): { kappa: number; tau: number } {
  if (goal.kappa !== undefined) return { kappa: goal.kappa, tau: goal.tau ?? tauFor(goal.kappa, bound) };
  const tau = goal.tau ?? DEFAULT_TAU;
  return { kappa: -Math.log(tau) / bound, tau };
}

/** Above 0, where the mask would be off, even if κ is far too large. */
function tauFor(kappa: number, bound: number): number {
  return Math.max(Math.exp(-kappa * bound), Number.MIN_VALUE);
}

function keptOf(costs: Float64Array, kappa: number, tau: number): number {
  return costs.filter((cost) => kappa * cost <= -Math.log(tau)).length / costs.length;
}

function binsOf(rows: readonly CalibrationRow[], goal: CalibrationGoal, kappa: number, tau: number): CalibrationBin[] {
  const members: CalibrationRow[][] = Array.from({ length: goal.edges.length + 1 }, () => []);
  for (const row of rows) members[binOf(goal.edges, row.timestep)]!.push(row);
  return members.map((inside, i) => {
    const costs = costsOf(inside, goal);
    const bound = boundOf(costs, goal.keep);
    return {
      from: goal.edges[i - 1] ?? -Infinity,
      to: goal.edges[i] ?? Infinity,
      rows: inside.length,
      removedAlways: inside.filter(({ omega }) => omega === Infinity).length,
      errorChosen: median(inside.map((row) => row.errorChosen)),
      errorRejected: median(inside.map((row) => row.errorRejected)),
      keepFraction: keptOf(costs, kappa, tau),
      kappa: -Math.log(tau) / bound,
      tau: Number.isNaN(bound) ? NaN : tauFor(kappa, bound),
    };
  });
}

/**
 * β at which the logit has the standard deviation `logitSpread` once training has changed the difference of the branches' errors by the fraction
 * `relativeImprovement` of its own spread: |ψ_c - ψ_r| = (β/2) |δ_c - δ_r| with δ_c - δ_r ~ relativeImprovement · std(r_c - r_r); with 'elbo'
 * β and ω r take the places of β/2 and r.
 *
 * At the first step δ = 0, so the logit itself says nothing, and what a step changes is known only to the optimizer. That it is a fixed share of
 * the spread is an assumption; the result is an order of magnitude to start a search from, not an optimum.
 */
function betaOf(rows: readonly CalibrationRow[], goal: CalibrationGoal): number {
  const spread = spreadOf(rows, goal);
  return spread > 0 ? goal.logitSpread / (goal.relativeImprovement * spread) : NaN;
}

/** What multiplies a difference of errors in the logit at β = 1; NaN where the row has no such logit. */
function factorOf({ omega }: CalibrationRow, { timestepWeighting, reduction }: CalibrationGoal): number {
  if (timestepWeighting === 'constant') return 0.5;
  return omega === Infinity ? NaN : omega * reduction;
}

/** Standard deviation over the rows of the branches' difference, as it counts in the logit at β = 1. */
function spreadOf(rows: readonly CalibrationRow[], goal: CalibrationGoal): number {
  const differences = rows.map((row) => (row.errorChosen - row.errorRejected) * factorOf(row, goal));
  return standardDeviation(differences.filter(Number.isFinite));
}

/** What came of a trial: the errors after it, or why there are none. */
export interface TrialResult {
  readonly options: Trial<never>['options'];
  readonly errors: Awaited<ReturnType<typeof runTrial>>;
}

function triedBeta(
  measured: readonly CalibrationRow[],
  goal: CalibrationGoal,
  { options, errors }: TrialResult,
): { beta: number | string; trial?: CalibrationTrial } {
  if (typeof errors === 'string') return { beta: errors };
  const factors = measured.map((row) => factorOf(row, goal));
  const spread = spreadOf(measured, goal);
  return betaOfTrial(measured, errors, options, { factors, spread, size: goal.logitSpread });
}

/** The middle value, or the mean of the two in the middle; NaN of none. */
function median(values: readonly number[]): number {
  const sorted = Float64Array.from(values).sort();
  const half = sorted.length / 2;
  return sorted.length === 0 ? NaN : (sorted[Math.ceil(half) - 1]! + sorted[Math.floor(half)]!) / 2;
}

/** Of a sample: √(Σ(x - x̄)² / (n - 1)); 0 of fewer than two. */
function standardDeviation(values: readonly number[]): number {
  if (values.length < 2) return 0;
  const sum = (terms: readonly number[]) => terms.reduce((total, term) => total + term, 0);
  // From the first on, so that equal values have no spread at all, whatever rounding makes of their mean.
  const shifted = values.map((value) => value - values[0]!);
  const mean = sum(shifted) / values.length;
  return Math.sqrt(sum(shifted.map((value) => (value - mean) ** 2)) / (values.length - 1));
}

/** The table and the lines to paste into a config, for a terminal. */
export function formatCalibration(result: Calibration): string {
  const head = [
    'timesteps',
    'rows',
    'error chosen',
    'error rejected',
    'no ratio',
    'kept',
    'κ of its own',
    'τ of its own',
  ];
  const lines = result.bins.map((bin) => [
    rangeOf(bin),
    String(bin.rows),
    short(bin.errorChosen),
    short(bin.errorRejected),
    bin.rows === 0 ? '-' : percent(bin.removedAlways / bin.rows),
    bin.rows === 0 ? '-' : percent(bin.keepFraction),
    short(bin.kappa),
    short(bin.tau),
  ]);
  const table = [head, ...lines];
  const widths = head.map((_, column) => Math.max(...table.map((line) => line[column]!.length)));
  const text = table.map((line) =>
    line.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '),
  );
  const settings = [
    Number.isNaN(result.kappa) ? undefined : `"weightSharpness": ${short(result.kappa)}`,
    Number.isNaN(result.tau) ? undefined : `"maskThreshold": ${short(result.tau)}`,
    Number.isNaN(result.beta) ? undefined : `"beta": ${short(result.beta)}`,
    `"timestepWeighting": "${result.timestepWeighting}"`,
  ].filter((line) => line !== undefined);
  return [
    ...text,
    '',
    `kept of all ${result.rows} rows: ${percent(result.keepFraction)} (asked for: ${percent(result.keep)})`,
    ...(result.trial === undefined ? [] : [trialLine(result.trial)]),
    ...result.warnings.map((warning) => `warning: ${warning}`),
    '',
    `options of the loss (β is an order of magnitude to start a search from, ${result.betaFrom === 'trial' ? 'measured' : 'assumed'}):`,
    ...settings.map((line, i) => `  ${line}${i < settings.length - 1 ? ',' : ''}`),
  ].join('\n');
}

function trialLine({ steps, learningRate, share, growth }: CalibrationTrial): string {
  return (
    `trial of ${steps} updates at the rate ${short(learningRate)}: the errors' difference moved by ${percent(share)} of its spread, ` +
    `${short(growth)} times as far as after half of them`
  );
}

function rangeOf({ from, to }: { readonly from: number; readonly to: number }): string {
  if (from === -Infinity) return to === Infinity ? 'all timesteps' : `t < ${short(to)}`;
  return to === Infinity ? `t >= ${short(from)}` : `${short(from)} <= t < ${short(to)}`;
}

function percent(fraction: number): string {
  return `${(100 * fraction).toFixed(1)} %`;
}

/** Four significant digits; enough for what is measured on a few batches. */
function short(value: number): string {
  return Number.isNaN(value) ? '-' : String(Number(value.toPrecision(4)));
}
