/** The options of the calls of a loss, and what they are checked for. */

import {
  checkBoolean,
  checkNumber,
  checkNumberAbove,
  checkOneOf,
  type Fields,
  fieldsOf,
  readOptions,
} from '../native/validate.js';
import type { EvaluateOptions, RowBatch } from './batch.js';
import type { DeviceStatistics } from './device-result.js';
import type { Statistics } from './result.js';

/** Options of a call that forms gradients. */
export interface CallOptions extends EvaluateOptions {
  /**
   * A previous result of the same shapes, dtypes and kinds, whose buffers are written again and which is returned: no allocation of D elements. A gradient
   * of it may be the policy, reference or target of its own branch, which it then replaces, and no other tensor of the batch.
   */
  into?: Statistics | undefined;
  /** Where loss, rows, metrics and coefficients go; default 'host'. */
  results?: 'host' | undefined;
}

/** Options of a call that leaves its results on the device and waits for nothing. */
export interface DeviceCallOptions extends EvaluateOptions {
  results: 'device';
  /** A previous result of the same rows and device, and of gradients that fit: nothing is allocated. */
  into?: DeviceStatistics | undefined;
}

/** Options of the call that something is reserved for. */
export type ReserveOptions = Omit<DeviceCallOptions, 'results'>;

export interface AsyncCallOptions extends CallOptions {
  /** Aborts between rows (long rows: between pieces of a row); the promise rejects with an AbortError whose `cause` is the signal's reason. */
  signal?: AbortSignal | undefined;
}

/** Gradient coefficients of a branch: ∂L/∂policy = (2/D)(a d + b h) per row; b defaults to 0. */
export interface CoefficientInput {
  a: ArrayLike<number>;
  b?: ArrayLike<number> | undefined;
}

/** What `objective` reads beside the moments. */
export interface ObjectiveNumbers
  extends RowBatch,
    Pick<EvaluateOptions, 'denominator' | 'gradientScale' | 'maskThreshold'> {}

export const OBJECTIVE_FIELDS = fieldsOf<ObjectiveNumbers>({
  timesteps: true,
  rowWeights: true,
  betaScale: true,
  margins: true,
  keep: true,
  transition: true,
  weightNoise: true,
  denominator: true,
  gradientScale: true,
  maskThreshold: true,
});
const RESERVED = {
  gradients: true,
  gradientScale: true,
  denominator: true,
  maskThreshold: true,
  stream: true,
  into: true,
} as const;
export const RESERVE_FIELDS = fieldsOf<ReserveOptions>(RESERVED);
export const CALL_FIELDS = fieldsOf<CallOptions>({ ...RESERVED, results: true });
export const ASYNC_CALL_FIELDS = fieldsOf<AsyncCallOptions>({ ...RESERVED, results: true, signal: true });

/** The options of a call, of which those that stand for themselves are checked. */
export function readCall<T extends CallOptions | DeviceCallOptions | ReserveOptions>(
  given: T,
  fields: Fields<T>,
  argument = 'call',
): T {
  const call = readOptions(argument, given, fields);
  if ('results' in call && call.results !== undefined)
    checkOneOf(`${argument}.results`, call.results, ['host', 'device']);
  if (call.gradients !== undefined) checkBoolean(`${argument}.gradients`, call.gradients);
  if (call.gradientScale !== undefined) checkNumber(`${argument}.gradientScale`, call.gradientScale);
  if (call.denominator !== undefined) checkNumberAbove(`${argument}.denominator`, call.denominator, 0);
  return call;
}
