/** Failures of the file system as errors that say what was being done, with which path, and what helps. */

import { existsSync, mkdirSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { SdpoError } from '../native/errors.js';
import { printable } from '../native/printable.js';

/** Something that needs the file system. */
export interface FileTask {
  /** Completes "Expected to …": `write the checkpoint of step 30`. */
  readonly task: string;
  /** The file or folder it is about. */
  readonly path: string;
  /** What helps in this case beside the general advice, by the code of the system. */
  readonly help?: Readonly<Record<string, string>>;
}

const HELP: { readonly [code: string]: string } = {
  ENOSPC: 'the disk is full: make room there',
  EDQUOT: 'the quota of this user is used up: make room there',
  EROFS: 'the file system is read-only: choose another folder',
  EACCES: 'this user may not do that: change the permissions, or choose another folder',
  EPERM: 'this user may not do that: change the permissions, or choose another folder',
  EISDIR: 'a folder has the name of the file: move it away',
  ENOTDIR: 'a file is where a folder should be: move it away',
  EEXIST: 'something else has this name: move it away',
  ENOENT: 'a folder on the way does not exist, or was removed meanwhile',
  ENAMETOOLONG: 'choose a shorter path',
  EMFILE: 'this process has too many open files: raise the limit (ulimit -n)',
  ENFILE: 'the system has too many open files',
  EIO: 'the disk or the connection to it fails',
  ESTALE: 'the connection to the file server was lost',
};

/** Whether an error is one of the operating system's, as `fs` throws them. */
export function isSystemError(error: unknown): error is NodeJS.ErrnoException {
  const { code, syscall } = (error ?? {}) as NodeJS.ErrnoException;
  return error instanceof Error && typeof code === 'string' && typeof syscall === 'string';
}

/** An error of the operating system as `ERR_SDPO_FILE` that names the task; any other error as it is. */
export function asFileError({ task, path, help }: FileTask, error: unknown): unknown {
  if (!isSystemError(error)) return error;
  const code = error.code!.replace(/^ERR_FS_/, ''); // Node's own, as for a folder where rm expects a file
  // Node adds the call and, where there is one, the path: of a temporary file, which nobody knows.
  const said = error.message.split(', ')[0]!;
  const advice = [HELP[code], help?.[code]].filter((text) => text !== undefined).join('; ');
  return new SdpoError(
    'ERR_SDPO_FILE',
    `Expected to ${task} (${printable(path)}), received ${printable(said)}${advice === '' ? '' : `; ${advice}`}`,
    { cause: error },
  );
}

/** Does what needs the file system; a failure names the task. */
export async function namingFiles<T>(task: FileTask, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw asFileError(task, error);
  }
}

/** The same for what does not wait. */
export function namingFilesSync<T>(task: FileTask, work: () => T): T {
  try {
    return work();
  } catch (error) {
    throw asFileError(task, error);
  }
}

/** Makes a folder and those above it. What `mkdir` with `recursive` calls ENOENT may be a read-only file system; the call that fails says it. */
export function makeFolder(path: string): void {
  try {
    mkdirSync(path, { recursive: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ENOENT') throw error;
    let missing = resolve(path);
    while (!existsSync(dirname(missing))) missing = dirname(missing);
    mkdirSync(missing);
    mkdirSync(path, { recursive: true });
  }
}
