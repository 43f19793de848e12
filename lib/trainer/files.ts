/** Files of the trainer: positional reads that notice a truncated file, durable writes, fingerprints, and the headers of safetensors files. */

import { createHash, randomBytes } from 'node:crypto';
import { open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import { FOREIGN_BYTES } from '../files/foreign.js';
import { openFile } from '../files/open.js';
import { type ErrorCode, SdpoError } from '../native/errors.js';
import { printable } from '../native/printable.js';
import { decodeHeader, type Field, headerLength, LENGTH_BYTES } from '../tensor/safetensors.js';

/** Bytes of a file: from `begin`, `length` of them. */
export interface Range {
  readonly begin: number;
  readonly length: number;
}

/** One call of the operating system reads at most 2 GiB. */
const MOST_AT_ONCE = 2 ** 30;

/**
 * Reads ranges of a file; the file is open only meanwhile, so that any number of shards needs no handle and nothing has to be closed.
 *
 * @param size of the file when its header was read: another size means that it was written to since
 * @throws SdpoError with `code` and the path where the file has another size, or ends before a range does
 */
export async function readRanges(
  path: string,
  ranges: readonly Range[],
  code: ErrorCode,
  size?: number,
): Promise<Uint8Array[]> {
  return withFile(path, code, async (file) => {
    if (size !== undefined) {
      const now = (await file.stat()).size;
      if (now !== size)
        throw new SdpoError(code, `Expected ${printable(path)} to be ${size} bytes long, received ${now} bytes`);
    }
    const out: Uint8Array[] = [];
    for (const range of ranges) out.push(await readExactly(file, path, range, code));
    return out;
  });
}

// Declarations that users compile name no type of Node's: not everyone has @types/node.

/** What is used of an open file. */
export interface OpenFile {
  read(buffer: Uint8Array, offset: number, length: number, position: number): Promise<{ readonly bytesRead: number }>;
  stat(): Promise<{ readonly size: number }>;
}

/** What is used of a digest. */
interface Digest {
  update(data: string | Uint8Array): unknown;
}

/** Opens a file, uses and closes it; what the operating system throws meanwhile is given the path. */
export async function withFile<T>(path: string, code: ErrorCode, use: (file: OpenFile) => Promise<T>): Promise<T> {
  const file = await openFile(path, code);
  try {
    return await use(file);
  } catch (cause) {
    if (cause instanceof SdpoError) throw cause;
    throw new SdpoError(
      code,
      `Expected ${printable(path)} to be readable, received ${printable((cause as Error).message)}`,
      { cause },
    );
  } finally {
    await file.close();
  }
}

/** Bytes of a file that is open; throws where it ends before the range does. */
export async function readExactly(file: OpenFile, path: string, range: Range, code: ErrorCode): Promise<Uint8Array> {
  const bytes = new Uint8Array(range.length);
  let done = 0;
  while (done < range.length) {
    const { bytesRead } = await file.read(bytes, done, Math.min(range.length - done, MOST_AT_ONCE), range.begin + done);
    if (bytesRead === 0) {
      const [from, to] = [range.begin, range.begin + range.length];
      throw new SdpoError(
        code,
        `Expected ${printable(path)} to hold the bytes ${from} to ${to}, received ${from + done} bytes`,
      );
    }
    done += bytesRead;
  }
  return bytes;
}

/** Writes a new file and returns when it is on the disk; its name is when the folder was given to {@link syncFolder}. */
export async function writeDurably(path: string, data: Uint8Array | string): Promise<void> {
  const file = await open(path, 'wx');
  try {
    await file.writeFile(data);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Puts a file of any size in its place, whole and on the disk, or leaves what is there. */
export async function replaceDurably(path: string, data: Uint8Array): Promise<void> {
  const temporary = `${path}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    await writeDurably(temporary, data);
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  await syncFolder(dirname(path));
}

/** Returns when the names in a folder are on the disk. */
export async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** SHA-256 in hexadecimal; one update takes at most 2 GiB. */
export function sha256(data: Uint8Array | string): string {
  const hash = createHash('sha256');
  if (typeof data === 'string') return hash.update(data).digest('hex');
  for (let at = 0; at < data.length; at += MOST_AT_ONCE) hash.update(data.subarray(at, at + MOST_AT_ONCE));
  return hash.digest('hex');
}

/** How much of a file a fingerprint looks at. */
export type FingerprintMode = 'sample' | 'content';

const SAMPLES = 64;
const SAMPLE_BYTES = 4096;
const CONTENT_BYTES = 4 * 2 ** 20;

/**
 * Adds the size of a file and, with 'sample', 64 pieces of 4 KiB at even distances, the first and the last bytes among them, to a hash; with
 * 'content' all of its bytes.
 */
export async function hashFile(hash: Digest, path: string, mode: FingerprintMode, code: ErrorCode): Promise<void> {
  await withFile(path, code, async (file) => {
    const { size } = await file.stat();
    hash.update(`size ${size}\n`);
    const whole = mode === 'content' || size <= SAMPLES * SAMPLE_BYTES;
    const length = whole ? CONTENT_BYTES : SAMPLE_BYTES;
    const count = whole ? Math.ceil(size / length) : SAMPLES;
    for (let i = 0; i < count; i++) {
      const begin = whole ? i * length : Math.floor(((size - length) * i) / (count - 1));
      hash.update(await readExactly(file, path, { begin, length: Math.min(length, size - begin) }, code));
    }
  });
}

/** A tensor of a safetensors file that stays on the disk; `begin` counts from the start of the file. */
export interface StoredTensor extends Field {
  readonly row: NonNullable<Field['row']>;
  readonly path: string;
  readonly fileBytes: number;
}

export interface SafetensorsHeader {
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  /** Names and dtypes of those that cannot be read. */
  readonly others: ReadonlyMap<string, string>;
  readonly metadata: Readonly<Record<string, string>>;
}

/** Reads the header of a safetensors file, and nothing else of it. */
export async function readSafetensorsHeader(path: string, code: ErrorCode): Promise<SafetensorsHeader> {
  return withFile(path, code, async (file) => {
    const fileBytes = (await file.stat()).size;
    if (fileBytes < LENGTH_BYTES) {
      throw new SdpoError(
        code,
        `Expected ${printable(path)} to be a safetensors file, received a file of ${fileBytes} bytes`,
      );
    }
    const start = await readExactly(file, path, { begin: 0, length: Math.min(fileBytes, FOREIGN_BYTES) }, code);
    try {
      const length = headerLength(start, fileBytes);
      const content = LENGTH_BYTES + length;
      const header = await readExactly(file, path, { begin: LENGTH_BYTES, length }, code);
      const { fields, metadata } = decodeHeader(header, fileBytes - content);
      const tensors = new Map<string, StoredTensor>();
      const others = new Map<string, string>();
      for (const { name, row, ...field } of fields) {
        if (row === undefined) others.set(name, field.code);
        else {
          const [begin, end] = [field.begin + content, field.end + content];
          tensors.set(name, { ...field, row, path, fileBytes, begin, end });
        }
      }
      return { tensors, others, metadata };
    } catch (cause) {
      throw new SdpoError(code, `${printable(path)}: ${(cause as Error).message}`, { cause });
    }
  });
}

/** Where rows of a stored tensor lie in its file. */
export function rowRange(tensor: StoredTensor, first: number, count = 1): Range {
  const rowBytes = (tensor.end - tensor.begin) / Math.max(tensor.shape[0] ?? 1, 1);
  return { begin: tensor.begin + first * rowBytes, length: count * rowBytes };
}

/** The elements behind bytes that were read from a stored tensor. */
export function elementsOf(tensor: StoredTensor, bytes: Uint8Array): InstanceType<StoredTensor['row']['Data']> {
  const { Data } = tensor.row;
  return new Data(bytes.buffer as ArrayBuffer, bytes.byteOffset, bytes.byteLength / Data.BYTES_PER_ELEMENT);
}
