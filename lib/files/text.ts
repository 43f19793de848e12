/** Reads text files whole: UTF-8 with or without a byte order mark, and errors that say what a file is that holds something else. */

import { closeSync, fstatSync, readFileSync } from 'node:fs';
import { type ErrorCode, SdpoError } from '../native/errors.js';
import { printable } from '../native/printable.js';
import { openFileSync } from './open.js';

/** Far beyond any config or result, and what still fits into a string. */
const MAX_TEXT_BYTES = 2 ** 28;

/**
 * The text of a file, without a byte order mark.
 *
 * @throws SdpoError with `code` and the path: not a regular file, not UTF-8, or larger than 256 MiB
 */
export function readTextFile(path: string, code: ErrorCode): string {
  const file = openFileSync(path, code);
  let bytes: Uint8Array;
  try {
    const { size } = fstatSync(file);
    if (size > MAX_TEXT_BYTES) {
      throw new SdpoError(code, `Expected ${printable(path)} to be a text of at most 256 MiB, received ${size} bytes`);
    }
    bytes = readFileSync(file);
  } catch (cause) {
    if (cause instanceof SdpoError) throw cause;
    throw new SdpoError(
      code,
      `Expected ${printable(path)} to be readable, received ${printable((cause as Error).message)}`,
      { cause },
    );
  } finally {
    closeSync(file);
  }
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (cause) {
    const utf16 = (bytes[0] === 0xff && bytes[1] === 0xfe) || (bytes[0] === 0xfe && bytes[1] === 0xff);
    const received = utf16 ? 'UTF-16, as PowerShell writes it; save it as UTF-8' : 'bytes that are not UTF-8';
    throw new SdpoError(code, `Expected ${printable(path)} to be text in UTF-8, received ${received}`, { cause });
  }
}
