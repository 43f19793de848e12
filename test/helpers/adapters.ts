/** What the tests of the adapters share: a small network and its batch in float64, the losses to compare, and the examples of docs/adapters.md. */

import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import type { Test } from 'tap';
import ts from 'typescript';
import { type Batch, NoiseSchedule, PreferenceLoss, type PreferenceLossOptions } from '../../lib/index.js';
import type { OracleOptions } from '../oracle/oracle.js';
import { normalNumbers, optionCases } from './cases.js';
import { type ChildResult, runProgram } from './child.js';
import { differenceStep, largest, slopeAtZero } from './close.js';
import { epsilonOf } from './dtypes.js';

export const rows = 5;
export const inputSize = 4;
const hiddenSize = 7;
/** Rows of a prediction have four axes of their own, as those of a video: frames, channels, height, width. */
export const rowShape = [2, 3, 2, 2];
export const outputSize = 24;

/** Shapes of the parameters of prediction = tanh(x · w1 + b1) · w2. */
export const parameterShapes = {
  w1: [inputSize, hiddenSize],
  b1: [hiddenSize],
  w2: [hiddenSize, outputSize],
} as const;
export type ParameterName = keyof typeof parameterShapes;
export const parameterNames = Object.keys(parameterShapes) as ParameterName[];
/** All of them hold float32 numbers, so that frameworks and float64 start from the same ones. */
type Parameters = Record<ParameterName, Float32Array>;

export interface Problem {
  params: Parameters;
  /** [rows, inputSize] and [rows, …rowShape]. */
  chosen: { inputs: Float32Array; reference: Float32Array; target: Float32Array };
  rejected: { inputs: Float32Array; reference: Float32Array; target: Float32Array };
  omega: { chosen: number[]; rejected: number[] };
}

export function makeProblem(seed: number): Problem {
  const normal = normalNumbers(seed);
  const draw = (length: number, scale: number) => Float32Array.from({ length }, () => scale * normal());
  const branch = () => ({
    inputs: draw(rows * inputSize, 1),
    reference: draw(rows * outputSize, 0.7),
    target: draw(rows * outputSize, 0.7),
  });
  return {
    params: {
      w1: draw(inputSize * hiddenSize, 0.5),
      b1: draw(hiddenSize, 0.3),
      w2: draw(hiddenSize * outputSize, 0.3),
    },
    chosen: branch(),
    rejected: branch(),
    // From rows whose weight is above the clip range of `parityOptions` to rows that its mask removes.
    omega: { chosen: [0.02, 0.1, 0.2, 0.9, 0.05], rejected: [0.1, 0.02, 0.25, 0.1, 0.06] },
  };
}

/** The losses whose gradients are compared with formulas written in the frameworks. */
export const parityOptions: readonly OracleOptions[] = [
  { objective: 'diffusion-dpo', beta: 2, labelSmoothing: 0.1 },
  { objective: 'diffusion-dpo', beta: 2, link: 'hinge' },
  { objective: 'diffusion-dpo', beta: 2, link: 'ipo' },
  { objective: 'dpo-cm', beta: 2, maskThreshold: 0.6, clipRange: [0.8, 0.95] },
  { objective: 'sdpo', beta: 2, maskThreshold: 0.6, clipRange: [0.8, 0.95], weightSharpness: 1.25 },
  { objective: 'sdpo', beta: 2, maskThreshold: 0.6, clipRange: [0.8, 0.95], sftWeight: 0.2, klWeight: 0.3 },
];

export function titleOf(options: OracleOptions): string {
  return Object.entries(options)
    .map(([name, value]) => (name === 'objective' ? value : `${name} ${value}`))
    .join(', ');
}

/**
 * What float32 leaves of a gradient whose entries are sums of a few dozen products, through three layers and a loss: eight units in the last
 * place of the largest entry.
 */
export function float32Tolerance(expected: ArrayLike<number>): { relative: number; absolute: number } {
  return { relative: 0, absolute: 8 * epsilonOf('float32') * largest(expected) };
}

/** Gradient of a loss with respect to every parameter by finite differences, with network and loss in float64. */
export function differenceGradient(loss: PreferenceLoss, problem: Problem): Record<ParameterName, Float64Array> {
  const params = Object.fromEntries(
    parameterNames.map((name) => [name, Float64Array.from(problem.params[name])]),
  ) as Record<ParameterName, Float64Array>;
  const value = () => loss.evaluate(predicted(params, problem), { gradients: false }).loss;
  const slope = (array: Float64Array, at: number) => {
    const start = array[at];
    const result = slopeAtZero((x) => {
      array[at] = start + x;
      return value();
    }, differenceStep);
    array[at] = start;
    return result;
  };
  return Object.fromEntries(
    parameterNames.map((name) => [name, params[name].map((_, at) => slope(params[name], at))]),
  ) as Record<ParameterName, Float64Array>;
}

function predicted(params: Record<ParameterName, Float64Array>, problem: Problem): Batch {
  const branch = ({ inputs, reference, target }: Problem['chosen']) => ({
    policy: network(params, inputs),
    reference: Float64Array.from(reference),
    target: Float64Array.from(target),
  });
  return {
    timesteps: new Float64Array(rows),
    transition: { omega: problem.omega },
    chosen: branch(problem.chosen),
    rejected: branch(problem.rejected),
  };
}

function network({ w1, b1, w2 }: Record<ParameterName, Float64Array>, inputs: Float32Array): Float64Array {
  const out = new Float64Array(rows * outputSize);
  for (let row = 0; row < rows; row++) {
    for (let h = 0; h < hiddenSize; h++) {
      let sum = b1[h];
      for (let i = 0; i < inputSize; i++) sum += inputs[row * inputSize + i] * w1[i * hiddenSize + h];
      const hidden = Math.tanh(sum);
      for (let o = 0; o < outputSize; o++) out[row * outputSize + o] += hidden * w2[h * outputSize + o];
    }
  }
  return out;
}

/** A program in JavaScript that runs the examples of one section of docs/adapters.md, in order and as one module. */
export function documentedProgram(section: string): string {
  const text = readFileSync(new URL('../../docs/adapters.md', import.meta.url), 'utf8');
  const body = text.split(/^## /m).find((part) => part.startsWith(section));
  const blocks = Array.from(body?.matchAll(/^```ts\n(.*?)^```/gms) ?? [], (match) => match[1]);
  if (blocks.length === 0) throw new Error(`docs/adapters.md has no examples under '${section}'`);
  return ts.transpile(blocks.join('\n'), { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 });
}

/** Options of every kind, to see that an adapter passes them on: a share of all combinations, and what is beside them. */
export const passedOptions: readonly { name: string; options: PassedOptions }[] = [
  ...Array.from(optionCases()).filter((_, at) => at % 29 === 0),
  ...(['dspo', 'dmpo', 'mapo'] as const).map((objective) => ({ name: objective, options: { objective, beta: 2 } })),
  { name: 'safeguard', options: { objective: 'diffusion-dpo', beta: 2, safeguard: 0.3 } },
];
type PassedOptions = Omit<PreferenceLossOptions, 'schedule'>;

export function passedLoss(options: PassedOptions): PreferenceLoss {
  return new PreferenceLoss({ ...options, schedule: NoiseSchedule.preset('sd15') });
}

/** Without a schedule: batches of these tests bring their own ω. */
export function lossWithOmega(options: OracleOptions): PreferenceLoss {
  const { schedule: _, ...rest } = options;
  return new PreferenceLoss(rest);
}

/** Imports an adapter from a copy of the built package that lies where no framework is installed. */
export function withoutPeer(t: Test, adapter: 'jax' | 'tfjs'): ChildResult {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const folder = mkdtempSync(join(tmpdir(), 'sdpo-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  for (const name of ['dist', 'package.json']) cpSync(join(root, name), join(folder, name), { recursive: true });
  mkdirSync(join(folder, 'node_modules'));
  for (const name of ['build', 'node_modules/node-gyp-build']) symlinkSync(join(root, name), join(folder, name));
  return runProgram(`await import(${JSON.stringify(pathToFileURL(join(folder, 'dist', `${adapter}.js`)).href)});`);
}
