/** The thread in which Parquet files are read: it can be stopped, and its memory has a limit. */

import { parentPort } from 'node:worker_threads';
import { perform, type Task } from './task.js';

/** An error crosses as its message: its class would be lost. */
export type Answer = { readonly result: unknown } | { readonly error: string };

async function answer(task: Task): Promise<void> {
  const { result, moved } = await perform(task);
  parentPort!.postMessage({ result } satisfies Answer, moved);
}

parentPort!.on('message', (task: Task) => {
  answer(task).catch((error: Error) => parentPort!.postMessage({ error: error.message } satisfies Answer));
});
