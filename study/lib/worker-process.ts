/** A process that makes runs, seen from the study that started it. */

import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import type { Experiment, StudyCell, StudyConfig, StudyRun } from './types.js';

export interface StartMessage {
  readonly type: 'start';
  /** URL of the module. */
  readonly experiment: string;
  readonly options: StudyConfig['options'];
  readonly shared: string;
  readonly decidingMetric: string;
}

export type ToWorker = StartMessage | { readonly type: 'prepare' } | { readonly type: 'run'; readonly cell: StudyCell };

export type FromWorker =
  | { readonly type: 'prepared'; readonly metrics: Experiment['metrics']; readonly sources: Experiment['sources'] }
  | { readonly type: 'run'; readonly run: StudyRun }
  | { readonly type: 'progress'; readonly done: number; readonly total: number }
  | { readonly type: 'error'; readonly error: string };

/** What came of something that a worker was told: its answer, or how its process ended without one. */
export type Outcome = Exclude<FromWorker, { type: 'progress' }> | { readonly type: 'died'; readonly error: string };

/** Bytes of a worker's output that are kept to say why it died. */
const KEPT_OUTPUT = 8192;

/** Time for a worker to end by itself before it is killed. */
const GRACE_MILLISECONDS = 2000;

/** Options of node that concern the program given on its command line, not the processes it starts. */
const OWN_OPTION = /^(--input-type|--inspect|--test|--watch|--print|--check|-p$|-c$)/;

/** The options of this process that its workers need, loaders of TypeScript among them. */
function inheritedOptions(): string[] {
  const own = process.execArgv.filter((option) => !OWN_OPTION.test(option));
  const program = own.findIndex((option) => option === '-e' || option === '--eval');
  if (program >= 0) own.splice(program, 2);
  return own;
}

/** Runs from `lib/` under a loader of TypeScript and from `dist/` as it is. */
const WORKER = fileURLToPath(new URL(import.meta.url.endsWith('.ts') ? './worker.ts' : './worker.js', import.meta.url));

export class WorkerProcess {
  readonly #child: ChildProcess;
  readonly #exited: Promise<void>;
  #output = '';
  #settle: ((outcome: Outcome) => void) | undefined;
  #onProgress: ((done: number, total: number) => void) | undefined;
  #ended: string | undefined;

  constructor(start: StartMessage) {
    // The cores are shared out among the processes, so each computes with one thread.
    this.#child = fork(WORKER, {
      execArgv: inheritedOptions(),
      env: { ...process.env, SDPO_NUM_THREADS: '1' },
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      serialization: 'advanced', // JSON would turn NaN into null
    });
    for (const stream of [this.#child.stdout!, this.#child.stderr!]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        this.#output = (this.#output + text).slice(-KEPT_OUTPUT);
      });
    }
    this.#child.on('message', (message: FromWorker) => {
      if (message.type === 'progress') this.#onProgress?.(message.done, message.total);
      else this.#answer(message);
    });
    this.#exited = new Promise((exited) => {
      const end = (how: string) => {
        this.#ended ??= how;
        this.#answer({ type: 'died', error: this.#obituary() });
        exited();
      };
      this.#child.on('error', (error) => end(`could not be started or reached: ${error.message}`));
      this.#child.on('close', (code, signal) => end(signal === null ? `ended with code ${code}` : `died of ${signal}`));
    });
    this.#send(start);
  }

  get ended(): boolean {
    return this.#ended !== undefined;
  }

  prepare(onProgress: (done: number, total: number) => void): Promise<Outcome> {
    return this.#ask({ type: 'prepare' }, onProgress);
  }

  run(cell: StudyCell, onProgress: (done: number, total: number) => void): Promise<Outcome> {
    return this.#ask({ type: 'run', cell }, onProgress);
  }

  /** Ends the process, by force where it does not do so itself; settles when it is gone. */
  async stop(): Promise<void> {
    if (this.#ended !== undefined) return;
    // A worker that is between two runs has nothing to finish.
    this.#child.kill(this.#settle === undefined ? 'SIGKILL' : 'SIGTERM');
    const force = setTimeout(() => this.#child.kill('SIGKILL'), GRACE_MILLISECONDS);
    await this.#exited;
    clearTimeout(force);
  }

  #ask(message: ToWorker, onProgress: (done: number, total: number) => void): Promise<Outcome> {
    if (this.#ended !== undefined) return Promise.resolve({ type: 'died', error: this.#obituary() });
    return new Promise((settle) => {
      this.#settle = settle;
      this.#onProgress = onProgress;
      this.#send(message);
    });
  }

  #send(message: ToWorker): void {
    // A failure to send is a process that is gone, which the event of its end tells.
    this.#child.send(message, () => {});
  }

  #answer(outcome: Outcome): void {
    const settle = this.#settle;
    this.#settle = this.#onProgress = undefined;
    settle?.(outcome);
  }

  #obituary(): string {
    const output = this.#output.trim();
    return `The worker process ${this.#ended}${output === '' ? ' and wrote nothing' : `; it wrote:\n${output}`}`;
  }
}
