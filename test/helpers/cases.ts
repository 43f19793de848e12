/** The one list of shapes, dtypes, option sets and random batches that tests, benchmarks and device checks share. */

import {
  links,
  logRatioReductions,
  type OracleBatch,
  type OracleCall,
  type OracleOptions,
  type OracleResult,
  objectives,
  oracle,
  type PerBranch,
  pairWeights,
  scopes,
  timestepWeightings,
  weightRatios,
} from '../oracle/oracle.js';
import { differenceStep } from './close.js';
import { type DType, rounding } from './dtypes.js';

/** Shapes of one row: around the 16 lanes and 4096-element tiles of the kernels, and latents with odd extents (channels, frames, height, width). */
export const shapes: readonly (readonly number[])[] = [
  [1],
  [2],
  [15],
  [16],
  [17],
  [31],
  [4095],
  [4096],
  [4097],
  [4, 3, 5, 7],
  [3, 5, 9, 11],
  [16, 3, 13, 15],
];

/** Shapes that nobody chose, of up to 8 x 8 x 8 x 8 elements. */
export function randomShapes(count: number, seed: number): number[][] {
  const uniform = uniformNumbers(seed);
  return Array.from({ length: count }, () => Array.from({ length: 4 }, () => 1 + Math.floor(8 * uniform())));
}

/** Mask thresholds: off, one that removes some rows of `randomBatch`, one that removes every row whose policy has an error. */
const maskThresholds = [0, 0.7, 1] as const;

export function sizeOf(shape: readonly number[]): number {
  return shape.reduce((product, extent) => product * extent, 1);
}

/** Uniform numbers in [0, 1) from a seed: a linear congruential generator whose high bits are used. */
export function uniformNumbers(seed: number): () => number {
  let state = Math.imul(seed + 1, 0x9e3779b1) >>> 0;
  const next = () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state >>> 8;
  };
  return () => (next() * 2 ** 24 + next()) / 2 ** 48;
}

/** Standard normal numbers by Box-Muller. */
export function normalNumbers(seed: number): () => number {
  const uniform = uniformNumbers(seed);
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}

export interface BatchShape {
  rows: number;
  size: number;
  seed: number;
  /** Standard deviation of u_θ - u. */
  error?: number;
  /** Standard deviation of u_θ - u_ref. */
  drift?: number;
  /** Inputs are rounded to it, so that every dtype is given the same numbers as the oracle. */
  dtype?: DType;
  /** ω of each row times its expected error; ω is divided by D with `reduction: 'sum'`. */
  strength?: readonly number[];
  reduction?: 'mean' | 'sum';
}

export interface RandomBatch {
  timesteps: number[];
  chosen: PerTensor;
  rejected: PerTensor;
  transition: { omega: PerBranch<number[]> };
}

interface PerTensor {
  policy: Float64Array;
  reference: Float64Array;
  target: Float64Array;
}

/** Log weights from next to nothing to well below the thresholds of `optionCases`, so that rows are kept, clipped and removed. */
const defaultStrength = [0.02, 0.12, 0.2, 0.33, 0.6, 0.16];

/** A batch with its own ω per row and branch. */
export function randomBatch(shape: BatchShape): RandomBatch {
  const { rows, size, seed, error = 0.5, drift = 0.3, dtype = 'float64', strength = defaultStrength } = shape;
  const normal = normalNumbers(seed);
  const round = rounding(dtype);
  const fill = (make: (at: number) => number) => new Float64Array(rows * size).map((_, at) => round(make(at)));
  const branch = (): PerTensor => {
    const target = fill(() => normal());
    const policy = fill((at) => target[at] + error * normal());
    const reference = fill((at) => policy[at] + drift * normal());
    return { policy, reference, target };
  };
  const omega = (factor: number) =>
    Array.from({ length: rows }, (_, i) => {
      const perElement = (strength[i % strength.length] * factor) / error ** 2;
      return shape.reduction === 'sum' ? perElement / size : perElement;
    });
  return {
    timesteps: Array.from({ length: rows }, (_, i) => 100 + i),
    chosen: branch(),
    rejected: branch(),
    transition: { omega: { chosen: omega(1), rejected: omega(0.8) } },
  };
}

/**
 * The first random batch from `seed` on none of whose rows is near a kink of the loss (hinge, mask, clip edges, ties of the
 * two weights), where a finite difference would straddle it. Edges themselves are the business of kinks.test.ts.
 */
export function smoothBatch(shape: BatchShape, options: OracleOptions): RandomBatch {
  for (let seed = shape.seed; ; seed += 7919) {
    const batch = randomBatch({ ...shape, seed });
    if (!nearKink(oracle(batch, options).rows, options)) return batch;
  }
}

/** How far z and λ of `randomBatch` move, generously, in the steps of a finite difference. */
const margins = { z: 64 * differenceStep, lambda: 8 * differenceStep };

function nearKink(rows: OracleResult['rows'], options: OracleOptions): boolean {
  const { objective, link, pairWeight = 'geometric', clipRange, maskThreshold = 0.9 } = options;
  const edges = Array.isArray(clipRange) ? clipRange.map(Math.log) : [];
  const floor = Math.log(maskThreshold);
  const nearFloor = (lambda: number) => Math.abs(lambda - floor) < margins.lambda;
  const nearEdge = (lambda: number) => edges.some((edge) => Math.abs(lambda - edge) < margins.lambda);
  return rows.logit.some((z, i) => {
    const chosen = rows.logWeightChosen[i];
    const rejected = rows.logWeightRejected[i];
    if (link === 'hinge' && Math.abs(z - 1) < margins.z) return true;
    if (objective === 'diffusion-dpo') return false;
    if (nearFloor(chosen) || nearFloor(rejected)) return true;
    if (objective === 'sdpo') return nearEdge(chosen) || nearEdge(rejected);
    if (pairWeight === 'geometric') return nearEdge((chosen + rejected) / 2);
    if (pairWeight === 'product') return nearEdge(chosen + rejected);
    return nearEdge(chosen) || nearEdge(rejected) || Math.abs(chosen - rejected) < margins.lambda;
  });
}

/** With the errors of `randomBatch` it puts logits around ±1, where every link is curved or close to its kink. */
export const defaultBeta = 8;

export interface OptionCase {
  name: string;
  options: OracleOptions;
}

/** The anchors: none, each in each scope, and both together. */
export const anchorOptions: readonly Partial<OracleOptions>[] = [
  {},
  ...scopes.map((sftScope) => ({ sftWeight: 0.3, sftScope })),
  ...scopes.map((klScope) => ({ klWeight: 0.7, klScope })),
  { sftWeight: 0.3, sftScope: 'masked', klWeight: 0.7, klScope: 'all' },
];

/** Every combination of objective, link, weighting, reduction, weight ratio, pair weight, weight gradient and anchors that the API accepts. */
export function* optionCases(only?: OracleOptions['objective']): Generator<OptionCase> {
  for (const objective of objectives) {
    if (only && objective !== only) continue;
    for (const weighted of weightOptions(objective)) {
      for (const link of links) {
        for (const timestepWeighting of timestepWeightings) {
          for (const logRatioReduction of logRatioReductions) {
            for (const anchors of anchorOptions) {
              const options = {
                objective,
                beta: defaultBeta,
                link,
                timestepWeighting,
                logRatioReduction,
                ...(link === 'sigmoid' && { labelSmoothing: 0.1 }),
                ...weighted,
                ...anchors,
              };
              yield { name: describeOptions(options), options };
            }
          }
        }
      }
    }
  }
}

function weightOptions(objective: OracleOptions['objective']): Partial<OracleOptions>[] {
  if (objective === 'diffusion-dpo') return [{}];
  return weightRatios.flatMap((weightRatio) =>
    (objective === 'dpo-cm' ? pairWeights : [undefined]).flatMap((pairWeight) =>
      [false, true].map((weightGradient) => ({
        weightRatio,
        weightGradient,
        ...(pairWeight && { pairWeight }),
        ...edges(weightRatio),
      })),
    ),
  );
}

/** Thresholds in the middle of the weights that `randomBatch` makes: those of policy against reference lie around 1, the others below it. */
function edges(weightRatio: (typeof weightRatios)[number]): Partial<OracleOptions> {
  return weightRatio === 'policy/reference'
    ? { maskThreshold: 0.97, clipRange: [0.985, 1.02] }
    : { maskThreshold: maskThresholds[1], clipRange: [0.8, 0.95] };
}

function describeOptions(options: OracleOptions): string {
  return Object.entries(options)
    .filter(([name]) => name !== 'beta')
    .map(([name, value]) => (name === 'objective' ? value : `${name}=${value}`))
    .join(' ');
}

export interface BatchVariant {
  name: string;
  batch: OracleBatch;
  options?: Partial<OracleOptions>;
  call?: OracleCall;
  /** It touches only what depends on the weights, which diffusion-dpo refuses. */
  weightsOnly?: boolean;
}

/** The optional fields of a batch and of a call, one at a time and then together. */
export function batchVariants(base: RandomBatch, seed: number): BatchVariant[] {
  const uniform = uniformNumbers(seed);
  const rows = base.timesteps.length;
  const size = base.chosen.policy.length / rows;
  const list = (length: number, make: () => number) => Array.from({ length }, make);
  const rowWeights = list(rows, () => 2 * uniform());
  const elementWeights = list(size, () => uniform());
  if (size > 1) elementWeights[0] = 0;
  const perRow = list(rows * size, () => 0.5 + uniform());
  const perBranch = { chosen: elementWeights, rejected: list(rows * size, () => 1.5 - uniform()) };
  const omega = base.transition.omega;
  const offsets = {
    omega,
    offsetChosen: list(rows, () => 0.05 * uniform()),
    offsetRejected: list(rows, () => 0.05 * uniform()),
  };
  const weightNoise = { chosen: list(rows, () => uniform() - 0.5), rejected: list(rows, () => uniform() - 0.5) };
  const cached = (name: 'chosen' | 'rejected') => ({
    policy: base[name].policy,
    target: base[name].target,
    referenceError: list(rows, () => 0.2 + 0.1 * uniform()),
  });
  const unbounded = { ...omega, chosen: omega.chosen.map((value, i) => (i % 3 === 1 ? Infinity : value)) };
  const call = { denominator: 2 * rows + 1, gradientScale: 0.5 };
  return [
    { name: 'rowWeights', batch: { ...base, rowWeights } },
    { name: 'elementWeights [D]', batch: { ...base, elementWeights } },
    { name: 'elementWeights [rows, D]', batch: { ...base, elementWeights: perRow } },
    { name: 'elementWeights of each branch', batch: { ...base, elementWeights: perBranch } },
    { name: 'referenceError', batch: { ...base, chosen: cached('chosen'), rejected: cached('rejected') } },
    { name: 'offsets', batch: { ...base, transition: offsets }, options: { weightRatio: 'policy/data' } },
    { name: 'weightNoise', batch: { ...base, weightNoise }, options: { weightRatio: 'policy/data' } },
    { name: 'infinite omega', batch: { ...base, transition: { omega: unbounded } } },
    {
      name: 'infinite omega, elbo',
      batch: { ...base, transition: { omega: unbounded } },
      options: { timestepWeighting: 'elbo' },
    },
    { name: 'denominator and gradientScale', batch: base, call },
    { name: 'weightSharpness', batch: base, options: { weightSharpness: 0.5 }, weightsOnly: true },
    {
      name: 'maskThreshold per row',
      batch: base,
      call: { maskThreshold: Array.from({ length: rows }, (_, i) => maskThresholds[i % maskThresholds.length]) },
      weightsOnly: true,
    },
    {
      name: 'all together',
      batch: { ...base, rowWeights, elementWeights: perRow, transition: offsets, weightNoise },
      options: { weightRatio: 'policy/data' },
      call,
    },
    {
      name: 'all together, by branch and as sums',
      batch: { ...base, rowWeights, elementWeights: perBranch, transition: offsets, weightNoise },
      options: { weightRatio: 'policy/data', timestepWeighting: 'elbo', logRatioReduction: 'sum', klWeight: 0.1 },
      call,
    },
  ];
}
