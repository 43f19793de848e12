/** Keeps a second process out of the folder of a run: both would write the same log and the same checkpoints. */

import { type FolderLock, lockFolder } from '../trainer/folder-lock.js';

/** Name of the lock in the folder of a run. */
export const LOCK = 'run.lock';

/**
 * Takes the folder, which is made where it is missing, and gives the function that leaves it.
 * @throws SdpoError ERR_SDPO_LOCKED where another process has it
 */
export function lockRunFolder(
  out: string,
  onWarning: (message: string) => void = console.error,
): FolderLock['release'] {
  return lockFolder(out, { name: LOCK, onWarning }).release;
}
