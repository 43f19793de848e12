/** Where the time of a training goes. */

import type { MaybePromise } from './types.js';

/** Adds up the milliseconds of named parts of the work, and of updates as a whole. */
export class Stopwatch {
  readonly #parts = new Map<string, number>();
  #whole = 0;
  #outside = 0;
  #within = false;

  /** Times a part; parts do not nest. */
  async time<T>(part: string, work: () => MaybePromise<T>): Promise<T> {
    const began = performance.now();
    try {
      return await work();
    } finally {
      const milliseconds = performance.now() - began;
      this.#parts.set(part, (this.#parts.get(part) ?? 0) + milliseconds);
      if (!this.#within) this.#outside += milliseconds;
    }
  }

  /** Times an update, parts included. */
  async whole<T>(work: () => MaybePromise<T>): Promise<T> {
    const began = performance.now();
    this.#within = true;
    try {
      return await work();
    } finally {
      this.#within = false;
      this.#whole += performance.now() - began;
    }
  }

  /** Milliseconds by part, with `rest`: the time of updates that no part accounts for. */
  read(): Record<string, number> {
    const parts = Object.fromEntries(this.#parts);
    const known = [...this.#parts.values()].reduce((sum, value) => sum + value, 0) - this.#outside;
    return { ...parts, rest: this.#whole - known };
  }
}
