/** JSON Lines as a log: lines that every reader takes for one, and a file that is cut at a byte and appended to. */

import { constants } from 'node:fs';
import { type FileHandle, mkdir, open } from 'node:fs/promises';
import { dirname } from 'node:path';
import { checkKind } from '../files/open.js';
import { SdpoError } from '../native/errors.js';
import { printable } from '../native/printable.js';

/** Without O_NONBLOCK, which Windows does not have, opening a FIFO waits for its other end. */
const APPEND = constants.O_RDWR | constants.O_APPEND | constants.O_CREAT | (constants.O_NONBLOCK ?? 0);

const CHUNK_BYTES = 2 ** 20;
/** Far beyond any entry. */
const MAX_LINE_BYTES = 2 ** 26;
const LINE_FEED = 0x0a;

/** A value as one line. JSON allows separators of Unicode within strings that others take for the end of a line, such as Python's splitlines. */
export function jsonLine(value: unknown): string {
  const text = JSON.stringify(value).replace(
    /[\u0085\u2028\u2029]/g,
    (separator) => `\\u${separator.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return `${text}\n`;
}

/**
 * Opens a log for appending behind the last whole line of step `from` or an earlier one, and cuts off what comes after it. What stays is not
 * changed, whatever ends its lines and whether or not it is UTF-8; a last line that is whole but for its end is ended.
 *
 * @throws SdpoError `ERR_SDPO_DATA` with path and line where the file holds something else than such lines; errors of the file system
 */
export async function openLog(path: string, from: number): Promise<FileHandle> {
  await mkdir(dirname(path), { recursive: true });
  const file = await open(path, APPEND, 0o666);
  try {
    const stats = await file.stat();
    checkKind(path, 'ERR_SDPO_DATA', stats);
    const { bytes, ended } = await keptOf(file, path, from);
    if (bytes < stats.size) await file.truncate(bytes);
    if (!ended) await file.appendFile('\n');
    return file;
  } catch (error) {
    await file.close();
    throw error;
  }
}

interface Kept {
  readonly bytes: number;
  /** Whether a line feed is at its end. */
  readonly ended: boolean;
}

/** The lines in front of the first one with a later step. */
async function keptOf(file: FileHandle, path: string, from: number): Promise<Kept> {
  let bytes = 0;
  let number = 0;
  for await (const line of linesOf(file, path)) {
    number++;
    const isWhole = line.at(-1) === LINE_FEED;
    const text = new TextDecoder().decode(line);
    const step = stepOf(text);
    // Line feeds or not, it was not torn but written by something else.
    if (step === undefined && (isWhole || /\r[^\n]/.test(text))) failLine(path, number, text);
    if (step === undefined || step > from) break;
    bytes += line.length;
    if (!isWhole) return { bytes, ended: false };
  }
  return { bytes, ended: true };
}

/** The lines of a file, each with its line feed; the last one may have none. */
async function* linesOf(file: FileHandle, path: string): AsyncGenerator<Buffer> {
  let rest: Buffer = Buffer.alloc(0);
  for (let at = 0; ; ) {
    const { buffer, bytesRead } = await file.read(Buffer.allocUnsafe(CHUNK_BYTES), 0, CHUNK_BYTES, at);
    if (bytesRead === 0) break;
    at += bytesRead;
    rest = Buffer.concat([rest, buffer.subarray(0, bytesRead)]);
    let begin = 0;
    for (let end = rest.indexOf(LINE_FEED); end >= 0; end = rest.indexOf(LINE_FEED, begin)) {
      yield rest.subarray(begin, end + 1);
      begin = end + 1;
    }
    rest = rest.subarray(begin);
    if (rest.length > MAX_LINE_BYTES) {
      throw new SdpoError(
        'ERR_SDPO_DATA',
        `Expected the lines of ${printable(path)} to be of at most 64 MiB, received a longer one`,
      );
    }
  }
  if (rest.length > 0) yield rest;
}

function stepOf(text: string): number | undefined {
  try {
    const { step } = JSON.parse(text) as { step?: unknown };
    return typeof step === 'number' ? step : undefined;
  } catch {
    return undefined;
  }
}

function failLine(path: string, number: number, text: string): never {
  const shown = text.trimEnd().slice(0, 60);
  throw new SdpoError(
    'ERR_SDPO_DATA',
    `Expected line ${number} of ${printable(path)} to be a JSON object with a step, received ${printable(shown)}`,
  );
}
