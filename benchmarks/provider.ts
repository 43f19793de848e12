/** What a participant of a benchmark offers: a prepared case that can be timed, and whose result can be judged. */

import type { Batch, Outcome } from './data.js';

export interface Provider {
  /** Name in tables; with `threads` it is unique. */
  readonly name: string;
  readonly kind: 'ours' | 'peer' | 'ceiling';
  readonly threads: number;
  /** Whether the event loop turns between its calls. */
  readonly turns?: boolean;
  /** Why it cannot take part in a case, if it cannot. */
  refuses(batch: Batch): string | undefined;
  prepare(batch: Batch): Promise<Prepared> | Prepared;
}

export interface Prepared {
  /** Runs the case so many times and gives nanoseconds per call. */
  time(calls: number): Promise<number> | number;
  /** The result of a call; a ceiling computes nothing and checks its own traffic instead. */
  outcome(): Promise<Outcome | undefined> | Outcome | undefined;
  /** Peak of extra resident bytes during a call, or undefined where it cannot be told. */
  extraBytes(): Promise<number | undefined>;
  dispose(): void | Promise<void>;
}

export function timeCalls(work: () => unknown, calls: number): number {
  const start = performance.now();
  for (let i = 0; i < calls; i++) work();
  return ((performance.now() - start) * 1e6) / calls;
}

export async function timeAsyncCalls(work: () => Promise<unknown>, calls: number): Promise<number> {
  const start = performance.now();
  for (let i = 0; i < calls; i++) await work();
  return ((performance.now() - start) * 1e6) / calls;
}
