/** Resident memory of this process and the highest it has been, from Linux's /proc. */

import { readFileSync, writeFileSync } from 'node:fs';
import { setTimeout } from 'node:timers/promises';

function statusField(name: string): number {
  const line = readFileSync('/proc/self/status', 'utf8').match(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm'));
  if (line === null) throw new Error(`/proc/self/status has no ${name}`);
  return Number(line[1]) * 1024;
}

/** Bytes resident now. */
export function residentBytes(): number {
  return statusField('VmRSS');
}

/** The most bytes resident since `forgetPeak`, or since the process began. */
export function peakBytes(): number {
  return statusField('VmHWM');
}

/** Makes the memory resident now the peak; false where the kernel does not allow it. */
export function forgetPeak(): boolean {
  try {
    writeFileSync('/proc/self/clear_refs', '5');
    return true;
  } catch {
    return false;
  }
}

/**
 * Collects garbage, where `--expose-gc` allows it, and waits for its memory to be given back: buffers are freed by another thread after a
 * collection, and the next collection waits for it.
 */
export async function collectGarbage(): Promise<void> {
  for (let i = 0; i < 2; i++) {
    globalThis.gc?.();
    await setTimeout(10);
  }
}

/** How far the resident memory rises above what it was, at its highest, while a function runs; undefined where it cannot be told. */
export async function extraPeak(work: () => unknown): Promise<number | undefined> {
  await collectGarbage();
  if (!forgetPeak()) return undefined;
  const before = residentBytes();
  await work();
  return Math.max(0, peakBytes() - before);
}
