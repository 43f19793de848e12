/** Memory of results on the host: kept between calls where it is large, so that a call pays for no zeros and no page faults. */

import { totalmem } from 'node:os';
import { binding } from '../native/binding.js';
import { allocate, type DType, dtypeBytes, type HostArray, hostArray } from './dtypes.js';

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

/**
 * An array for a result that is written whole: its elements are what was there before.
 *
 * @throws SdpoError ERR_SDPO_OUT_OF_MEMORY where there is not so much memory
 */
export function allocateResult(dtype: DType, length: number): HostArray {
  const bytes = length * dtypeBytes(dtype);
  const isKept = bytes >= KEPT_FROM && bytes <= bound;
  let buffer = isKept ? binding.takeResult(bytes) : undefined;
  if (buffer === undefined) {
    buffer = newMemory(dtype, length);
    if (isKept) binding.keepResult(buffer, bound);
  }
  if (isKept) sweeping ??= setInterval(sweep, KEPT_FOR).unref();
  return hostArray(dtype, buffer);
}

/** Without zeros where Node can: its version 20 makes no buffer of more than 4 GiB, though arrays may be larger. */
function newMemory(dtype: DType, length: number): ArrayBuffer {
  try {
    return Buffer.allocUnsafeSlow(length * dtypeBytes(dtype)).buffer as ArrayBuffer;
  } catch {
    return allocate(dtype, length).buffer as ArrayBuffer;
  }
}

let sweeping: NodeJS.Timeout | undefined;

function sweep(): void {
  if (binding.sweepResults()) return;
  clearInterval(sweeping);
  sweeping = undefined;
}
