/** Memory of results on the host: kept by the addon between calls where it is large, so that a call pays for no zeros and no page faults. */

import { isMainThread } from 'node:worker_threads';
import { binding } from '../native/binding.js';
import { type DType, dtypeBytes, type HostArray, hostArray } from './dtypes.js';

/** Bytes from which memory is worth keeping. The C library itself keeps smaller pieces, without pages to fault and without a finalizer each. */
const KEPT_FROM = 2 ** 17;

/** Whether memory can leave its buffer for another one. A worker's would then have to outlive the worker, which the addon cannot promise. */
const movable = 'transfer' in ArrayBuffer.prototype;
const kept = isMainThread || !movable;

/** An array for a result that is written whole: its elements are what was there before. */
export function allocateResult(dtype: DType, length: number): HostArray {
  const bytes = length * dtypeBytes(dtype);
  const buffer = kept && bytes >= KEPT_FROM ? binding.resultBuffer(bytes, movable) : undefined;
  return hostArray(dtype, buffer ?? (Buffer.allocUnsafeSlow(bytes).buffer as ArrayBuffer));
}
