/** Reads Parquet files in a thread of their own, one after another: hyparquet was not made for damaged files, and the checks before it may have gaps. */

import { getHeapStatistics } from 'node:v8';
import { Worker } from 'node:worker_threads';
import { SdpoError } from '../../native/errors.js';
import type { Columns, ParquetFooter } from './footer.js';
import type { GroupPairs, GroupRequest } from './group.js';
import type { Task } from './task.js';
import type { Answer } from './worker.js';

/** Seconds that anything may take, and more for each MiB that is read: far beyond what healthy files need, on a machine that is busy. */
const SECONDS = 60;
const SECONDS_PER_MIB = 2;

/** Loaders of TypeScript do not all reach into threads: from `lib/` the files are read in this one. */
const FROM_SOURCE = import.meta.url.endsWith('.ts');

let reader: Worker | undefined;
let last: Promise<unknown> = Promise.resolve();

/** The footer of a file; see {@link ParquetFooter}. */
export function readParquetFooter(path: string, columns: Columns, seconds = SECONDS): Promise<ParquetFooter> {
  return inTurn({ kind: 'footer', path, columns }, seconds) as Promise<ParquetFooter>;
}

/** The pairs of a row group. */
export function readParquetGroup(request: GroupRequest): Promise<GroupPairs> {
  const bytes = request.group.chunks.reduce((sum, chunk) => sum + chunk.bytes, 0);
  const seconds = SECONDS + (SECONDS_PER_MIB * bytes) / 2 ** 20;
  return inTurn({ kind: 'group', ...request }, seconds) as Promise<GroupPairs>;
}

function inTurn(task: Task, seconds: number): Promise<unknown> {
  const done = last.then(() => (FROM_SOURCE ? inThisThread(task) : inItsOwnThread(task, seconds)));
  last = done.catch(() => {});
  return done;
}

async function inThisThread(task: Task): Promise<unknown> {
  const { perform } = await import('./task.js');
  return (await perform(task)).result;
}

function inItsOwnThread(task: Task, seconds: number): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const fail = (message: string) => reject(new SdpoError('ERR_SDPO_DATA', message));
    let worker: Worker;
    try {
      worker = reader ??= start();
    } catch (error) {
      fail(`Expected a thread to read ${task.path} in, received ${(error as Error).message}`);
      return;
    }
    const settle = () => {
      clearInterval(timer);
      worker.off('message', onMessage).off('messageerror', onError).off('error', onError).off('exit', onExit).unref();
    };
    const give = (received: string) => {
      settle();
      // Whatever state it is in, the next task has a new one.
      reader = undefined;
      void worker.terminate();
      fail(`Expected ${task.path} to be read in a thread of its own, received ${received}`);
    };
    const onMessage = (answer: Answer) => {
      settle();
      if ('error' in answer) fail(answer.error);
      else resolve(answer.result);
    };
    const onError = (error: NodeJS.ErrnoException) => {
      const outOfMemory = error.code === 'ERR_WORKER_OUT_OF_MEMORY';
      give(outOfMemory ? 'more than fits into its memory: write smaller row groups' : error.message);
    };
    const onExit = (code: number) => give(`its end with code ${code}`);
    // Counts only while this thread is not busy itself and the machine is awake: otherwise an answer may be waiting already.
    let ticks = 0;
    const timer = setInterval(() => {
      if (++ticks >= seconds) give(`no end within ${Math.round(seconds)} s: the file is damaged`);
    }, 1000);
    worker.on('message', onMessage).on('messageerror', onError).on('error', onError).on('exit', onExit);
    // While it works, the process waits for it.
    worker.ref();
    worker.postMessage(task);
  });
}

function start(): Worker {
  const worker = new Worker(new URL('./worker.js', import.meta.url), {
    name: 'sdpo-parquet',
    // Options of this process may be none of a thread.
    execArgv: [],
    resourceLimits: { maxOldGenerationSizeMb: getHeapStatistics().heap_size_limit / 2 ** 20 },
  });
  // Whoever waits for an answer is told by listeners of its own.
  worker
    .on('error', () => {})
    .on('exit', () => {
      if (reader === worker) reader = undefined;
    });
  return worker;
}
