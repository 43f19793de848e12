/** Counts, shares and times of a study that runs, and who is told of them. */

import type { FailedRun } from './run-file.js';
import type { StudyCell } from './types.js';

export interface StudyProgress {
  /** What is being done: files that the runs share, or the runs. */
  readonly phase: 'prepare' | 'run';
  /** Runs that were asked for. */
  readonly total: number;
  /** Those done, earlier ones included; those of them that were done before; those that failed in this call. */
  readonly done: number;
  readonly skipped: number;
  readonly failed: number;
  /** Under way, each with the share of it that is done, in [0, 1]. */
  readonly running: readonly { readonly id: string; readonly share: number }[];
  /** Seconds since the start of this call, and about how many are left; undefined until something is known about it. */
  readonly elapsed: number;
  readonly left: number | undefined;
}

/** What a call of {@link runStudy} did. */
export interface StudySummary {
  readonly total: number;
  readonly done: number;
  readonly skipped: number;
  readonly failed: readonly FailedRun[];
  /** Whether the signal stopped it; the same call goes on. */
  readonly aborted: boolean;
  readonly seconds: number;
}

type OnProgress = (done: number, total: number) => void;

/** Counts and times of a call, and who is told. */
export class ProgressCounter {
  readonly #total: number;
  readonly #skipped: number;
  readonly #notify: ((progress: StudyProgress) => void) | undefined;
  readonly #began = performance.now();
  readonly #running = new Map<string, number>();
  readonly #failed: FailedRun[] = [];
  #phase: StudyProgress['phase'] = 'prepare';
  #runsBegan = 0;
  #finished = 0;

  constructor(total: number, skipped: number, notify: ((progress: StudyProgress) => void) | undefined) {
    this.#total = total;
    this.#skipped = skipped;
    this.#notify = notify;
  }

  async prepare<T>(work: (onProgress: OnProgress) => Promise<T>): Promise<T> {
    return await this.#follow('prepare', work);
  }

  async run<T>({ id }: StudyCell, work: (onProgress: OnProgress) => Promise<T>): Promise<T> {
    if (this.#phase === 'prepare') this.#runsBegan = performance.now();
    this.#phase = 'run';
    return await this.#follow(id, work);
  }

  finish(cell: StudyCell, error: string | undefined): void {
    if (error !== undefined) this.#failed.push({ cell, error });
    this.#finished++;
    this.#tell();
  }

  summary(aborted: boolean): StudySummary {
    const done = this.#skipped + this.#finished - this.#failed.length;
    const counts = { total: this.#total, done, skipped: this.#skipped, failed: this.#failed };
    return { ...counts, aborted, seconds: (performance.now() - this.#began) / 1000 };
  }

  async #follow<T>(id: string, work: (onProgress: OnProgress) => Promise<T>): Promise<T> {
    this.#running.set(id, 0);
    try {
      const result = work((done, total) => {
        this.#running.set(id, total > 0 ? Math.min(1, done / total) : 0);
        this.#tell();
      });
      this.#tell(); // after the work has begun, so that who stops the study here stops that too
      return await result;
    } finally {
      this.#running.delete(id);
    }
  }

  #tell(): void {
    if (this.#notify === undefined) return;
    const now = performance.now();
    const { done, failed, ...counts } = this.summary(false);
    const running = [...this.#running].map(([id, share]) => ({ id, share }));
    // Runs that are under way count by their share, so that there is an estimate before the first is done.
    const made = this.#finished + running.reduce((sum, { share }) => sum + share, 0);
    const remaining = counts.total - counts.skipped - made;
    const known = this.#phase === 'run' && made > 0;
    this.#notify({
      phase: this.#phase,
      total: counts.total,
      done,
      skipped: counts.skipped,
      failed: failed.length,
      running,
      elapsed: counts.seconds,
      left: known ? ((now - this.#runsBegan) / 1000 / made) * remaining : undefined,
    });
  }
}
