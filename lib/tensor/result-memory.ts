/** Memory of results on the host: kept between calls where it is large, so that a call pays for no zeros and no page faults. */

import { totalmem } from 'node:os';
import { binding } from '../native/binding.js';
import { type DType, dtypeBytes, type HostArray, hostArray } from './dtypes.js';

/** Bytes from which memory is worth keeping: the page faults of less cost no more than keeping it does. */
const KEPT_FROM = 2 ** 14;

/** Memory that no call came for in this time, in milliseconds, is given back. Whoever makes fewer calls does not notice page faults. */
const KEPT_FOR = 1000;

/** Bytes that are kept at most: SDPO_RESULT_POOL mebibytes, or a quarter of what the process may use. */
const bound = boundOf(process.env.SDPO_RESULT_POOL);

function boundOf(setting: string | undefined): number {
  if (/^\d{1,9}$/.test(setting ?? '')) return Number(setting) * 2 ** 20;
  const allowed = process.constrainedMemory?.() || Infinity; // 0 where it is not known
  return Math.floor(Math.min(totalmem(), allowed) / 4);
}

/** An array for a result that is written whole: its elements are what was there before. */
export function allocateResult(dtype: DType, length: number): HostArray {
  const bytes = length * dtypeBytes(dtype);
  const isKept = bytes >= KEPT_FROM && bytes <= bound;
  let buffer = isKept ? binding.takeResult(bytes) : undefined;
  if (buffer === undefined) {
    buffer = Buffer.allocUnsafeSlow(bytes).buffer as ArrayBuffer;
    if (isKept) binding.keepResult(buffer, bound);
  }
  if (isKept) sweeping ??= setInterval(sweep, KEPT_FOR).unref();
  return hostArray(dtype, buffer);
}

let sweeping: NodeJS.Timeout | undefined;

function sweep(): void {
  if (binding.sweepResults()) return;
  clearInterval(sweeping);
  sweeping = undefined;
}
