/** Checks of the self-test that compare: with the float64 reference, with golden values, and with the CPU backend. */

import { PreferenceLoss } from '../loss/loss.js';
import { OBJECTIVES, type PreferenceLossOptions } from '../loss/options.js';
import type { Evaluation } from '../loss/result.js';
import { LINKS, PAIR_WEIGHTS } from '../native/names.js';
import type { DType } from '../tensor/dtypes.js';
import { DTYPES } from '../tensor/dtypes.js';
import type { Tensor } from '../tensor/tensor.js';
import { type CaseShape, type Made, makeBatch } from './batches.js';
import { close, closeGradient, identical, toleranceOf } from './compare.js';
import { GOLDEN, type GoldenCase } from './golden.js';
import { type ReferenceOptions, reference } from './reference.js';

/** A check throws where something is wrong; the device it runs on is given. */
export interface Check {
  group: string;
  name: string;
  /** What only a CUDA device can do wrong. */
  cudaOnly?: boolean;
  run(device: string): void | Promise<void>;
}

export type Result = Evaluation<Tensor, Tensor>;

const BETA = 20;
/** Largest ω of the batches. */
const MOST_OMEGA = 1.5;

export const DEFAULTS: ReferenceOptions = {
  objective: 'sdpo',
  link: 'sigmoid',
  pairWeight: 'geometric',
  timestepWeighting: 'constant',
  beta: BETA,
  clipRange: [0.8, 0.95],
  maskThreshold: 0.7,
  weightSharpness: 1,
  labelSmoothing: 0,
  sftWeight: 0,
  klWeight: 0,
};

/** The loss for options of the reference; what an objective does not use is left out. */
export function lossFor(options: ReferenceOptions): PreferenceLoss {
  const { objective, pairWeight, clipRange, maskThreshold, weightSharpness, ...rest } = options;
  return new PreferenceLoss({
    ...rest,
    objective,
    ...(objective === 'dpo-cm' ? { pairWeight } : {}),
    ...(objective === 'diffusion-dpo' ? {} : { clipRange, maskThreshold, weightSharpness }),
  });
}

export function dispose(made: Made, ...results: Result[]): void {
  for (const tensor of made.owned) tensor.dispose();
  for (const { gradients } of results) for (const tensor of Object.values(gradients)) tensor?.dispose();
}

const computeOf = (shape: CaseShape) => ([shape.dtype].flat().includes('float64') ? 'float64' : 'float32');
const policyOf = (shape: CaseShape): DType => [shape.dtype].flat()[0] as DType;

// ---- Against the float64 reference

function againstReference(name: string, shape: CaseShape, change: Partial<ReferenceOptions>, seed: number): Check {
  const options = { ...DEFAULTS, ...change };
  return {
    group: 'reference',
    name,
    run(device) {
      const made = makeBatch(shape, seed, device);
      const expected = reference(made.numbers, options);
      const actual = lossFor(options).evaluate(made.batch);
      const psiScale = BETA * MOST_OMEGA;
      const tolerance = toleranceOf(computeOf(shape), policyOf(shape), psiScale);
      close('loss', [actual.loss], [expected.loss], tolerance.logit);
      close('rows.loss', actual.rows.loss, expected.rows.loss, tolerance.logit);
      close('rows.logit', actual.rows.logit, expected.rows.logit, tolerance.logit);
      close('rows.mask', actual.rows.mask, expected.rows.mask, 0);
      close('rows.errorChosen', actual.rows.errorChosen, expected.rows.errorChosen, tolerance.moment);
      close('rows.errorRejected', actual.rows.errorRejected, expected.rows.errorRejected, tolerance.moment);
      closeGradient('gradients.chosen', actual.gradients.chosen, expected.gradients.chosen, tolerance);
      closeGradient('gradients.rejected', actual.gradients.rejected, expected.gradients.rejected, tolerance);
      dispose(made, actual);
    },
  };
}

export function referenceChecks(): Check[] {
  const small: CaseShape = { rows: 5, size: 37, dtype: 'float64' };
  const checks: Check[] = [];
  let seed = 1;
  for (const objective of ['diffusion-dpo', 'dpo-cm', 'sdpo'] as const) {
    for (const link of LINKS) {
      checks.push(againstReference(`${objective}, ${link}`, small, { objective, link }, seed++));
    }
    const anchored = { objective, timestepWeighting: 'elbo', sftWeight: 0.3, klWeight: 0.2 } as const;
    checks.push(againstReference(`${objective}, elbo, anchors`, small, anchored, seed++));
    for (const dtype of DTYPES) {
      checks.push(
        againstReference(`${objective}, ${dtype}`, { ...small, rows: 3, size: 1031, dtype }, { objective }, seed++),
      );
    }
  }
  for (const pairWeight of PAIR_WEIGHTS) {
    checks.push(againstReference(`dpo-cm, ${pairWeight}`, small, { objective: 'dpo-cm', pairWeight }, seed++));
  }
  checks.push(againstReference('label smoothing', small, { labelSmoothing: 0.1 }, seed++));
  const weighted: CaseShape = { ...small, elementWeights: true, rowWeights: true };
  checks.push(againstReference('element and row weights', weighted, {}, seed++));
  const apart: CaseShape = { ...small, elementWeights: 'of each branch' };
  checks.push(againstReference('element weights of each branch', apart, { klWeight: 0.2 }, seed++));
  for (const golden of GOLDEN) checks.push(againstGolden(golden));
  for (const layout of ['halves', 'interleaved'] as const) {
    checks.push(againstReference(`stacked batch, ${layout}`, { ...small, layout, dtype: 'bfloat16' }, {}, seed++));
  }
  return checks;
}

/** The golden values are finite differences, good for so many digits. */
const GOLDEN_TOLERANCE = 1e-7;

function againstGolden({ seed, shape, options, loss, logit, gradients }: GoldenCase): Check {
  return {
    group: 'reference',
    name: options.objective,
    run(device) {
      const made = makeBatch(shape, seed, device);
      const actual = new PreferenceLoss(options).evaluate(made.batch);
      close('loss', [actual.loss], [loss], GOLDEN_TOLERANCE);
      close('rows.logit', actual.rows.logit, logit, GOLDEN_TOLERANCE);
      for (const branch of ['chosen', 'rejected'] as const) {
        const values = actual.gradients[branch].toFloat64();
        close(`gradients.${branch}`, values, gradients[branch], GOLDEN_TOLERANCE);
      }
      dispose(made, actual);
    },
  };
}

// ---- Against the CPU backend

export const SHAPES: readonly CaseShape[] = [
  { rows: 1, size: 1, dtype: 'float32' },
  { rows: 4, size: 3, dtype: 'bfloat16' },
  { rows: 2, size: 17, dtype: 'float16', layout: 'interleaved' },
  { rows: 7, size: 1029, dtype: 'float32', elementWeights: true, rowWeights: true },
  { rows: 3, size: 4096, dtype: 'bfloat16', layout: 'halves' },
  { rows: 3, size: 4099, dtype: ['bfloat16', 'float32', 'float16'] },
  { rows: 2, size: 5000, dtype: ['float32', 'float64', 'float32'], elementWeights: true },
  { rows: 2, size: 2049, dtype: 'float64', layout: 'interleaved', rowWeights: true },
  { rows: 2, size: 70001, dtype: 'float32', referenceError: true },
  { rows: 3, size: 131073, dtype: 'bfloat16' },
  { rows: 40, size: 260, dtype: 'float16', elementWeights: true },
  { rows: 4, size: 2053, dtype: 'bfloat16', elementWeights: 'of each branch' },
];

export function againstCpu(shape: CaseShape, k: number): Check {
  const axes = `${shape.rows} x ${shape.size}`;
  const extras = ['layout', 'elementWeights', 'rowWeights', 'referenceError'].flatMap((key) => {
    const value = shape[key as keyof CaseShape];
    return value === undefined ? [] : [value === true ? key : key === 'layout' ? String(value) : `${key} ${value}`];
  });
  return {
    group: 'cpu backend',
    name: [`${axes} ${[shape.dtype].flat().join('/')}`, ...extras].join(', '),
    run(device) {
      const here = makeBatch(shape, 500 + k, 'cpu');
      const there = makeBatch(shape, 500 + k, device);
      for (const objective of OBJECTIVES) {
        if (objective === 'dspo' && shape.referenceError) continue; // it needs the drift
        const options: PreferenceLossOptions = { objective, beta: BETA };
        // On the CPU: one thread against all of them, which has to give the same bits.
        const expected = new PreferenceLoss({ ...options, threads: 1 }).evaluate(here.batch);
        const actual = new PreferenceLoss(options).evaluate(there.batch);
        if (device === 'cpu') {
          identical(objective, actual, expected);
        } else {
          const tolerance = toleranceOf(computeOf(shape), policyOf(shape), BETA * MOST_OMEGA);
          close(`${objective}: loss`, [actual.loss], [expected.loss], tolerance.logit);
          close(`${objective}: rows.logit`, actual.rows.logit, expected.rows.logit, tolerance.logit);
          close(`${objective}: rows.errorChosen`, actual.rows.errorChosen, expected.rows.errorChosen, tolerance.moment);
          for (const branch of ['chosen', 'rejected'] as const) {
            const gradient = expected.gradients[branch].toFloat64();
            const both = { ...tolerance, gradient: 2 * tolerance.gradient, smallest: 2 * tolerance.smallest };
            closeGradient(`${objective}: gradients.${branch}`, actual.gradients[branch], gradient, both);
          }
        }
        dispose({ ...there, owned: [] }, actual);
      }
      dispose(here);
      dispose(there);
    },
  };
}
