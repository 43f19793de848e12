/** Runs the package on a batch of plain numbers in any dtype and gives back plain numbers, so that tests can compare with the oracle. */

import { type EvaluateOptions, NoiseSchedule, PreferenceLoss, Tensor } from '../../lib/index.js';
import type { OracleBatch, OracleBranch, OracleCall, OracleOptions, OracleResult } from '../oracle/oracle.js';
import type { OracleSchedule } from '../oracle/schedule.js';
import { type DType, decode, encode } from './dtypes.js';

/** Batches that bring their own ω still belong to some schedule. */
const anySchedule = NoiseSchedule.preset('sd15');

/** A batch or a loss with `omega` in `transition` needs no schedule of its own. */
export function lossOf({ schedule, ...options }: OracleOptions): PreferenceLoss {
  return new PreferenceLoss({ ...options, schedule: schedule ? scheduleOf(schedule) : anySchedule });
}

export function scheduleOf({ config, ...sampler }: OracleSchedule): NoiseSchedule {
  return NoiseSchedule.fromDiffusers({ ...config }, sampler);
}

/** The package's answer, with gradients decoded to float64. */
export function evaluate(
  batch: OracleBatch,
  options: OracleOptions,
  dtype: DType = 'float64',
  call: OracleCall = {},
): OracleResult {
  return evaluateWith(lossOf(options), batch, dtype, call);
}

export function evaluateWith(
  loss: PreferenceLoss,
  batch: OracleBatch,
  dtype: DType = 'float64',
  call: EvaluateOptions = {},
): OracleResult {
  const rows = rowCountOf(batch);
  const { elementWeights } = batch;
  const given = {
    ...batch,
    chosen: branchOf(batch.chosen, dtype, rows),
    rejected: branchOf(batch.rejected, dtype, rows),
    elementWeights: elementWeights && weightsOf(elementWeights, Float64Array),
  };
  const { gradients, ...out } = loss.evaluate(given, { ...call, gradients: true });
  const read = (gradient: Tensor | ArrayLike<number>) =>
    decode(dtype, gradient instanceof Tensor ? gradient.toHost() : gradient);
  return {
    loss: out.loss,
    rows: out.rows,
    metrics: out.metrics,
    gradients: { chosen: read(gradients.chosen), rejected: read(gradients.rejected) },
  };
}

function rowCountOf({ timesteps }: OracleBatch): number {
  return 'chosen' in timesteps ? timesteps.chosen.length : timesteps.length;
}

/** The element weights of both branches, or of each, as arrays of one kind. */
export function weightsOf<A extends Float32Array | Float64Array>(
  weights: NonNullable<OracleBatch['elementWeights']>,
  Kind: { from(values: ArrayLike<number>): A },
): A | { chosen: A; rejected: A } {
  if (!('chosen' in weights)) return Kind.from(weights);
  return { chosen: Kind.from(weights.chosen), rejected: Kind.from(weights.rejected) };
}

function branchOf({ policy, reference, target, referenceError }: OracleBranch, dtype: DType, rows: number) {
  return {
    policy: tensorOf(policy, dtype, rows),
    target: tensorOf(target, dtype, rows),
    ...(reference && { reference: tensorOf(reference, dtype, rows) }),
    ...(referenceError && { referenceError }),
  };
}

/** Plain typed arrays where the dtype has one, tensors of bits where it has not. */
function tensorOf(values: ArrayLike<number>, dtype: DType, rows: number) {
  const stored = encode(dtype, values);
  if (stored instanceof Uint16Array) return Tensor.from(stored, { shape: [rows, values.length / rows], dtype });
  return stored;
}
