/** Opens files that others made: regular files only, and errors that say what stands at the path instead. */

import { closeSync, constants, fstatSync, openSync, type Stats, statSync } from 'node:fs';
import { type FileHandle, open, readdir } from 'node:fs/promises';
import { type ErrorCode, SdpoError } from '../native/errors.js';
import { printable } from '../native/printable.js';

/** Without it, opening a FIFO waits until somebody writes to it. Windows has no such flag. */
const READ = constants.O_RDONLY | (constants.O_NONBLOCK ?? 0);

/**
 * Opens a regular file for reading.
 *
 * @throws SdpoError with `code`, the path and what is there: nothing, a folder, a FIFO, a socket, a device
 */
export async function openFile(path: string, code: ErrorCode): Promise<FileHandle> {
  let file: FileHandle;
  try {
    file = await open(path, READ);
  } catch (cause) {
    throw notAFile(path, code, cause);
  }
  try {
    checkKind(path, code, await file.stat());
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** As {@link openFile}, for code that has to be synchronous; gives the descriptor. */
export function openFileSync(path: string, code: ErrorCode): number {
  let file: number;
  try {
    file = openSync(path, READ);
  } catch (cause) {
    throw notAFile(path, code, cause);
  }
  try {
    checkKind(path, code, fstatSync(file));
    return file;
  } catch (error) {
    closeSync(file);
    throw error;
  }
}

/** What stands at a path in place of a regular file, in words: for modules and the like, which others open by themselves. Undefined where it is one. */
export function insteadOfFile(path: string): string | undefined {
  try {
    return kindOf(statSync(path));
  } catch (cause) {
    return reasonOf(cause);
  }
}

/**
 * The names in a folder, in no order; none where it does not exist.
 *
 * @throws SdpoError with `code` and the path where it is not a folder, or may not be read
 */
export async function listFolder(path: string, code: ErrorCode): Promise<string[]> {
  try {
    return await readdir(path);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw new SdpoError(code, `Expected ${printable(path)} to be a folder, received ${reasonOf(cause)}`, { cause });
  }
}

/** Whether an error of this file says that there is nothing at the path. */
export function isMissing(error: unknown): boolean {
  const cause = error instanceof SdpoError ? (error.cause as NodeJS.ErrnoException | undefined) : undefined;
  return cause?.code === 'ENOENT';
}

/** Throws as {@link openFile} does for what was opened otherwise. */
export function checkKind(path: string, code: ErrorCode, stats: Stats): void {
  const kind = kindOf(stats);
  if (kind !== undefined) throw new SdpoError(code, `Expected ${printable(path)} to be a file, received ${kind}`);
}

/** Undefined for a regular file. */
function kindOf(stats: Stats): string | undefined {
  if (stats.isFile()) return undefined;
  if (stats.isDirectory()) return 'a folder';
  if (stats.isFIFO()) return 'a FIFO';
  return stats.isSocket() ? 'a socket' : 'a device';
}

function notAFile(path: string, code: ErrorCode, cause: unknown): SdpoError {
  return new SdpoError(code, `Expected ${printable(path)} to be a file, received ${reasonOf(cause)}`, { cause });
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'no such file',
  ENOTDIR: 'a path with something in it that is no folder',
  EACCES: 'one that may not be read (permissions)',
  EPERM: 'one that may not be read (permissions)',
  EISDIR: 'a folder',
  ENXIO: 'a socket or a device',
  ELOOP: 'links that lead back to themselves',
  EMFILE: 'more open files than this process may have (ulimit -n)',
};

/** What the operating system found, in words, with its code where that can be looked up. */
function reasonOf(cause: unknown): string {
  const { code, message } = cause as NodeJS.ErrnoException;
  const reason = REASONS[code ?? ''];
  return reason === undefined ? printable(message) : `${reason}: ${code}`;
}
