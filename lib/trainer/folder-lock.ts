/** Keeps a second process out of a folder, by a lock of the operating system that ends with the process that holds it. */

import {
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  unlinkSync,
  writeSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { hostname, constants as osConstants } from 'node:os';
import { join } from 'node:path';
import { SdpoError } from '../native/errors.js';
import { printable } from '../native/printable.js';
import { checkOptions, failType } from '../native/validate.js';
import { makeFolder, namingFilesSync } from './file-error.js';

export interface FolderLockOptions {
  /** Name of the file in the folder that carries the lock. Default 'run.lock'. */
  name?: string | undefined;
  /** Told once where the file system has no locks, or the addon that asks for them does not load: nothing keeps a second process out then. */
  onWarning?: ((message: string) => void) | undefined;
}

/** A folder that is taken. */
export interface FolderLock {
  /** The file that carries the lock. */
  readonly file: string;
  /** Removes the file and lets the next process in; again, it does nothing. */
  release(): void;
}

/** The part of fs-native-extensions that is used: locks of an open file description (F_OFD_SETLK). */
interface LockCalls {
  /** False where another open file has the lock. @throws what fcntl said, with its `code` */
  tryLock(fd: number): boolean;
}

const require = createRequire(import.meta.url);

/** Answers of fcntl that mean: there are no locks here. EINVAL comes from kernels and sandboxes that do not know this kind; libuv has no name for ENOLCK. */
const WITHOUT_LOCKS: { readonly [code: string]: string } = {
  ENOSYS: 'ENOSYS',
  ENOTSUP: 'ENOTSUP',
  EINVAL: 'EINVAL',
  [`Unknown system error -${osConstants.errno.ENOLCK}`]: 'ENOLCK',
};

/**
 * Takes a folder, which is made where it is missing, for this process and this call.
 *
 * The lock belongs to the open file: the kernel drops it when the process ends, however it does, so a lock that a killed process left is free
 * whatever has its number by now, and one of several that wait for it gets it. It holds among all processes of one kernel that see the same file,
 * in whatever container, and on NFS among the machines, where the server and the mount have locks (not with `nolock` or `local_lock`). The file
 * says who has it, for the message only.
 *
 * @throws SdpoError `ERR_SDPO_LOCKED` where it is taken, with who has it as far as that is known; `ERR_SDPO_FILE` where the file cannot be made
 */
export function lockFolder(folder: string, options: FolderLockOptions = {}): FolderLock {
  if (typeof folder !== 'string') failType('folder', 'a path', folder);
  options = checkOptions('options', options, ['name', 'onWarning']);
  const { name = 'run.lock', onWarning } = options as FolderLockOptions;
  const file = join(folder, name);
  return namingFilesSync({ task: 'lock the folder', path: file }, () => {
    makeFolder(folder);
    for (;;) {
      // Not O_TRUNC: what another process has written there stays until the lock is ours.
      const fd = openSync(file, constants.O_RDWR | constants.O_CREAT | constants.O_NONBLOCK, 0o666);
      try {
        if (!fstatSync(fd).isFile()) {
          throw new SdpoError('ERR_SDPO_FILE', `Expected ${printable(file)} to be a file, received something else`);
        }
        if (!tryLock(fd, file, onWarning)) {
          throw new SdpoError(
            'ERR_SDPO_LOCKED',
            `Expected no other process to run in ${printable(folder)}, received ${ownerOf(fd)} (${printable(file)})`,
          );
        }
        if (isStillThere(fd, file)) return taken(fd, file);
        // Whoever had it has removed the file between our two calls; a lock on what has no name keeps nobody out.
        closeSync(fd);
      } catch (error) {
        closeSync(fd);
        throw error;
      }
    }
  });
}

function tryLock(fd: number, file: string, onWarning?: (message: string) => void): boolean {
  const warn = (reason: string) => {
    onWarning?.(`Expected ${printable(file)} to be locked, received ${reason}: nothing keeps a second process out`);
    return true;
  };
  let calls: LockCalls;
  try {
    calls = require('fs-native-extensions') as LockCalls;
  } catch (error) {
    return warn(`no addon for it (fs-native-extensions: ${(error as Error).message.split('\n')[0]})`);
  }
  try {
    return calls.tryLock(fd);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (code === 'EACCES') return false; // POSIX lets a system say this for EAGAIN
    const name = WITHOUT_LOCKS[String(code)];
    if (name !== undefined) return warn(`${name}, a file system without locks`);
    throw new SdpoError('ERR_SDPO_FILE', `Expected ${printable(file)} to be locked, received ${code}: ${message}`, {
      cause: error,
    });
  }
}

/** Whether the path still leads to the file that is open. The link count is asked of the server on NFS, where names are cached. */
function isStillThere(fd: number, file: string): boolean {
  const own = fstatSync(fd);
  const named = statSync(file, { throwIfNoEntry: false });
  return own.nlink > 0 && named !== undefined && named.ino === own.ino && named.dev === own.dev;
}

function taken(fd: number, file: string): FolderLock {
  try {
    ftruncateSync(fd);
    const owner = { pid: process.pid, host: hostname(), since: new Date().toISOString() };
    writeSync(fd, `${JSON.stringify(owner)}\n`, 0);
  } catch {
    // A full disk: the lock holds without the name of its owner, and the process may be here to make room.
  }
  let held = true;
  return {
    file,
    release() {
      if (!held) return;
      held = false;
      try {
        // While the lock is held: afterwards the file may be another's.
        if (isStillThere(fd, file)) unlinkSync(file);
      } catch {
        // Left behind it is a file without a lock, which stops nobody.
      }
      closeSync(fd);
    },
  };
}

/** Who says to have the lock; a number of another container or machine means nothing here, hence the name of its host. */
function ownerOf(fd: number): string {
  try {
    const { pid, host, since } = JSON.parse(readFileSync(fd, 'utf8')) as Record<string, unknown>;
    return `process ${Number(pid)} of ${printable(String(host))}, there since ${printable(String(since))}`;
  } catch {
    return 'one that has it locked'; // between its lock and its name
  }
}
