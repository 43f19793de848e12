/** Keeps a second process out of the folder of a run: both would write the same log and the same checkpoints. */

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { configError } from './config-error.js';

/** Name of the lock in the folder of a run; it holds the id of the process. */
export const LOCK = 'run.lock';

/**
 * Takes the folder, which is made where it is missing, and gives the function that leaves it. A lock whose process is gone, killed perhaps, is taken
 * over. Processes of another machine are not seen.
 * @throws SdpoError ERR_SDPO_CONFIG where a process that is running has it
 */
export function lockRunFolder(out: string): () => void {
  mkdirSync(out, { recursive: true });
  const file = join(out, LOCK);
  const take = () => writeFileSync(file, `${process.pid}\n`, { flag: 'wx' });
  try {
    take();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error;
    const owner = Number.parseInt(readFileSync(file, 'utf8'), 10);
    if (isRunning(owner)) {
      throw configError(`Expected no other process to run in ${out}, received process ${owner} (${file})`);
    }
    rmSync(file, { force: true });
    take();
  }
  return () => rmSync(file, { force: true });
}

function isRunning(pid: number): boolean {
  try {
    return process.kill(pid, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
