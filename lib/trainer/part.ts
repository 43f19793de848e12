/** A part of an update: the batch that the loss is given for its rows, and what is made of the loss's results. */

import type { Batch } from '../loss/batch.js';
import { type Evaluation, logEntries, type Metrics, type Statistics } from '../loss/result.js';
import { DivergenceError, NonFiniteError } from '../native/errors.js';
import { failType, failValue } from '../native/validate.js';
import { isLatentArray, type LatentArray } from '../tensor/operand.js';
import { split, Tensor } from '../tensor/tensor.js';
import type { ReferencePrediction, TrainingRows } from './types.js';

/** A part of an update that has been through the loss. */
export interface PartResult {
  readonly loss: number;
  readonly metrics: Metrics;
  readonly rows: number;
  /** Whether predictions have 16 bits. */
  readonly half: boolean;
}

/** A prediction of both branches as one tensor whose first axis can be split. */
export function stacked(
  argument: string,
  prediction: LatentArray,
  rows: { rows: number; inputs: { latents: Float32Array } },
): Tensor {
  const { length } = rows.inputs.latents;
  if (!isLatentArray(prediction)) failType(argument, 'a Float32Array, a Float64Array or a Tensor', prediction);
  const size = prediction instanceof Tensor ? prediction.size : prediction.length;
  if (size !== length)
    failValue(argument, `of ${length} elements, as the latents`, `${size} elements`, 'ERR_SDPO_INVALID_LENGTH');
  if (prediction instanceof Tensor && prediction.shape[0] === 2 * rows.rows) return prediction;
  if (prediction instanceof Tensor) {
    failValue(argument, `of shape [${2 * rows.rows}, …]`, `[${prediction.shape}]`, 'ERR_SDPO_INVALID_LENGTH');
  }
  return Tensor.from(prediction, { shape: [2 * rows.rows, length / (2 * rows.rows)] });
}

/** The batch of the loss. Tensors that are made for it on a device go into `owned`. */
export function makeBatch(
  rows: TrainingRows,
  policy: Tensor,
  predicted: ReferencePrediction | undefined,
  owned: Tensor[],
): Batch {
  const policies = split(policy, 'halves');
  const references =
    predicted !== undefined && 'prediction' in predicted
      ? split(stacked('the prediction of the reference', predicted.prediction, rows), 'halves')
      : undefined;
  const branch = (name: 'chosen' | 'rejected') => {
    let target: LatentArray = rows.target[name];
    if (policy.device !== 'cpu') {
      target = Tensor.from(target, { shape: [rows.rows, target.length / rows.rows] }).to(policy.device);
      owned.push(target);
    }
    const reference = references?.[name];
    const referenceError = predicted !== undefined && 'error' in predicted ? predicted.error[name] : undefined;
    return {
      policy: policies[name],
      target,
      ...(reference === undefined ? {} : { reference }),
      ...(referenceError === undefined ? {} : { referenceError }),
    };
  };
  return {
    timesteps: rows.timesteps,
    chosen: branch('chosen'),
    rejected: branch('rejected'),
    rowWeights: rows.weights,
  };
}

/** What is not finite where the loss let it through (`nonFinite: 'propagate'`). */
export function divergenceIn(out: Evaluation, rows: TrainingRows, step: number): DivergenceError {
  const row = out.rows.loss.findIndex((value) => !Number.isFinite(value));
  return new DivergenceError(
    step,
    row < 0 ? rows.ids : [rows.ids[row]!],
    row < 0 ? undefined : rows.timesteps[row],
    'loss',
  );
}

/** Metrics of the parts as those of one batch, each part by its rows. Non-finite entries are left out, as within a part. */
export function mergedMetrics(parts: readonly Omit<PartResult, 'half'>[]): Record<string, number> {
  const [first] = parts;
  if (first === undefined) return {};
  if (parts.length === 1) return { ...logEntries(first.metrics), loss: first.loss };
  const merged = { ...first.metrics };
  for (const name of Object.keys(merged) as (keyof Metrics)[]) {
    const found = parts.filter(({ metrics }) => Number.isFinite(metrics[name]));
    const total = (of: (part: (typeof found)[number]) => number) => found.reduce((sum, part) => sum + of(part), 0);
    merged[name] =
      name === 'nonFiniteRows'
        ? total(({ metrics }) => metrics[name])
        : total(({ metrics, rows }) => rows * metrics[name]) / total(({ rows }) => rows); // NaN of none
  }
  // The loss of a part is its share of the batch's.
  return { ...logEntries(merged), loss: parts.reduce((total, { loss }) => total + loss, 0) };
}

/** Logits and masks of all rows of an update that was evaluated in so many parts. */
export function joined(results: readonly (Statistics | undefined)[], parts: number) {
  const all = (name: 'logit' | 'mask') =>
    Float64Array.from(results.slice(0, parts).flatMap((result) => Array.from(result?.rows[name] ?? [])));
  return { logit: all('logit'), mask: all('mask') };
}

/** A policy that writes all its predictions into one array would be compared with itself, and learn nothing. */
export function checkSeparate(prediction: LatentArray, predicted: ReferencePrediction | undefined): void {
  const reference = predicted !== undefined && 'prediction' in predicted ? predicted.prediction : undefined;
  if (!ArrayBuffer.isView(prediction) || !ArrayBuffer.isView(reference)) return;
  if (prediction.buffer !== reference.buffer || prediction.byteOffset !== reference.byteOffset) return;
  failValue(
    'the prediction of the reference',
    'in memory of its own, since that of the policy is still needed',
    reference,
  );
}

/** Whether what the models were given for a branch of a row is finite: if not, the data are to blame. */
function isFiniteSample(
  { rows, inputs: { latents } }: TrainingRows,
  row: number,
  branch: 'chosen' | 'rejected',
): boolean {
  const size = latents.length / (2 * rows);
  const first = (branch === 'chosen' ? row : rows + row) * size;
  return latents.subarray(first, first + size).every(Number.isFinite);
}

/** The update's failure, where the loss found something in its inputs that is not finite; any other error as it is. */
export function divergenceOf(error: unknown, rows: TrainingRows, step: number): unknown {
  if (!(error instanceof NonFiniteError)) return error;
  const where =
    error.tensor === 'row'
      ? `the loss of ${error.branch}`
      : isFiniteSample(rows, error.row, error.branch)
        ? `${error.branch}.${error.tensor}`
        : `the ${error.branch} sample of the data`;
  return new DivergenceError(step, [rows.ids[error.row]!], rows.timesteps[error.row], where, error);
}
