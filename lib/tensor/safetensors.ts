/** Reads and writes the safetensors container: named tensors behind a small JSON header, without code that a file could run. */

import { foreignFormat } from '../files/foreign.js';
import { jsonProblem, SOUND_JSON } from '../files/json-problem.js';
import { isTypedArrayOf, typedArray } from '../native/arrays.js';
import { SdpoRangeError } from '../native/errors.js';
import { describe, failType, failValue, shortened } from '../native/validate.js';

/** Typed arrays that can hold a tensor's elements; halves are kept as their bits in a Uint16Array, float8 in a Uint8Array. */
export type SafetensorsData =
  | Float64Array
  | Float32Array
  | BigInt64Array
  | BigUint64Array
  | Int32Array
  | Uint32Array
  | Int16Array
  | Uint16Array
  | Int8Array
  | Uint8Array;

// The names in a file, ours, and the array that holds the elements: floats of less than 32 bits as their bits, bool as one byte, 0 or 1.
const DTYPES = [
  { code: 'F64', dtype: 'float64', Data: Float64Array },
  { code: 'F32', dtype: 'float32', Data: Float32Array },
  { code: 'F16', dtype: 'float16', Data: Uint16Array },
  { code: 'BF16', dtype: 'bfloat16', Data: Uint16Array },
  { code: 'I64', dtype: 'int64', Data: BigInt64Array },
  { code: 'U64', dtype: 'uint64', Data: BigUint64Array },
  { code: 'I32', dtype: 'int32', Data: Int32Array },
  { code: 'U32', dtype: 'uint32', Data: Uint32Array },
  { code: 'I16', dtype: 'int16', Data: Int16Array },
  { code: 'U16', dtype: 'uint16', Data: Uint16Array },
  { code: 'I8', dtype: 'int8', Data: Int8Array },
  { code: 'U8', dtype: 'uint8', Data: Uint8Array },
  { code: 'F8_E4M3', dtype: 'float8_e4m3', Data: Uint8Array },
  { code: 'F8_E5M2', dtype: 'float8_e5m2', Data: Uint8Array },
  { code: 'F8_E8M0', dtype: 'float8_e8m0', Data: Uint8Array },
  { code: 'BOOL', dtype: 'bool', Data: Uint8Array },
] as const;

type DtypeRow = (typeof DTYPES)[number];

/** Element type of a tensor in a file. @useDeclaredType */
export type SafetensorsDtype = DtypeRow['dtype'];

/** One tensor of a file, row-major. A `Tensor` on the CPU has these fields too. */
export interface SafetensorsEntry {
  readonly dtype: SafetensorsDtype;
  readonly shape: readonly number[];
  readonly data: SafetensorsData;
}

/** Everything a file holds. */
export interface SafetensorsFile {
  /** In the order of the file's header. */
  readonly tensors: Record<string, SafetensorsEntry>;
  readonly metadata: Record<string, string>;
}

/** @internal Bytes of the little-endian length in front of the header. */
export const LENGTH_BYTES = 8;
/** The header is padded so that the data after it begins on a multiple of the widest element. */
const ALIGNMENT = 8;
/** The limit of the reference implementation, which keeps a damaged length from asking for all memory. */
const MAX_HEADER_BYTES = 100_000_000;
const METADATA = '__metadata__';
/** What a header starts with. */
const BRACE = 0x7b;

/**
 * The bytes of a safetensors file with these tensors. Data are written widest element first and then by name, so every tensor is
 * aligned to its element size and the same content always gives the same bytes.
 *
 * @param tensors name → dtype, shape and row-major data; the data's length must be the product of the shape.
 * @param metadata free strings, kept in the header.
 * @throws TypeError `ERR_SDPO_INVALID_ARG_TYPE`: data of a class that does not hold the dtype, or metadata that are not strings.
 * @throws RangeError `ERR_SDPO_INVALID_ARG_VALUE`, `ERR_SDPO_INVALID_LENGTH`: an unknown dtype, a wrong shape, a reserved name.
 */
export function encodeSafetensors(
  tensors: Readonly<Record<string, SafetensorsEntry>>,
  metadata: Readonly<Record<string, string>> = {},
): Uint8Array {
  if (!isRecord(tensors)) failType('tensors', 'an object of named tensors', tensors);
  const texts = checkMetadata('metadata', metadata, failType);
  const entries = Object.entries(tensors).map(([name, entry]) => ({ name, entry, row: checkEntry(name, entry) }));
  entries.sort((a, b) => b.row.Data.BYTES_PER_ELEMENT - a.row.Data.BYTES_PER_ELEMENT || (a.name < b.name ? -1 : 1));

  // A null prototype lets a tensor be called `__proto__`; JSON.stringify then writes it like any other name.
  const header: Record<string, unknown> = Object.create(null);
  if (Object.keys(texts).length > 0) header[METADATA] = texts;
  let offset = 0;
  for (const { name, entry, row } of entries) {
    const end = offset + entry.data.byteLength;
    header[name] = { dtype: row.code, shape: [...entry.shape], data_offsets: [offset, end] };
    offset = end;
  }

  const json = new TextEncoder().encode(JSON.stringify(header));
  const headerBytes = Math.ceil(json.length / ALIGNMENT) * ALIGNMENT;
  const out = new Uint8Array(LENGTH_BYTES + headerBytes + offset);
  new DataView(out.buffer).setBigUint64(0, BigInt(headerBytes), true);
  out.set(json, LENGTH_BYTES);
  out.fill(0x20, LENGTH_BYTES + json.length, LENGTH_BYTES + headerBytes);
  let position = LENGTH_BYTES + headerBytes;
  for (const { entry } of entries) {
    out.set(new Uint8Array(entry.data.buffer, entry.data.byteOffset, entry.data.byteLength), position);
    position += entry.data.byteLength;
  }
  return out;
}

/**
 * The tensors of a safetensors file. Data are views into `bytes` where these are aligned to the element size, copies elsewhere.
 *
 * @throws TypeError `ERR_SDPO_INVALID_ARG_TYPE`: `bytes` is not a Uint8Array.
 * @throws RangeError `ERR_SDPO_INVALID_ARG_VALUE`: the bytes are not a complete, consistent file; the message says where.
 */
export function decodeSafetensors(given: Uint8Array): SafetensorsFile {
  const bytes = typedArray(given);
  if (!(bytes instanceof Uint8Array)) failType('bytes', 'a Uint8Array', given);
  if (bytes.length < LENGTH_BYTES) {
    failValue('bytes', `a safetensors file of at least ${LENGTH_BYTES} bytes`, bytes);
  }
  const headerBytes = headerLength(bytes, bytes.length);
  const header = bytes.subarray(LENGTH_BYTES, LENGTH_BYTES + headerBytes);
  const content = bytes.subarray(LENGTH_BYTES + headerBytes);
  const { fields, metadata } = decodeHeader(header, content.length);

  const tensors: Record<string, SafetensorsEntry> = {};
  for (const field of fields) {
    const { name, shape, begin, end } = field;
    const row = knownDtype(field, `header field ${JSON.stringify(name)}.dtype`);
    const slice = content.subarray(begin, end);
    const aligned = slice.byteOffset % row.Data.BYTES_PER_ELEMENT === 0 ? slice : new Uint8Array(slice);
    const data = new row.Data(
      aligned.buffer as ArrayBuffer,
      aligned.byteOffset,
      aligned.byteLength / row.Data.BYTES_PER_ELEMENT,
    );
    // defineProperty, because assigning to `__proto__` would not add a field.
    Object.defineProperty(tensors, name, {
      value: { dtype: row.dtype, shape, data },
      enumerable: true,
      configurable: true,
      writable: true,
    });
  }
  return { tensors, metadata };
}

/**
 * @internal Bytes of the header behind its length.
 *
 * @param start the first bytes of the file, at least LENGTH_BYTES; a few more tell what a file is that is none of safetensors
 */
export function headerLength(start: Uint8Array, fileBytes: number): number {
  const headerBytes = new DataView(start.buffer, start.byteOffset, LENGTH_BYTES).getBigUint64(0, true);
  const available = fileBytes - LENGTH_BYTES;
  const foreign = start[LENGTH_BYTES] === BRACE ? undefined : foreignFormat(start);
  if (foreign !== undefined) failFile('the start', 'the length of a header', foreign);
  const most = Math.min(MAX_HEADER_BYTES, available);
  if (headerBytes > most) failFile('the header length', `at most ${most} bytes`, `${headerBytes}`);
  return Number(headerBytes);
}

/** @internal The tensors that a header describes, in its order, checked against the bytes that follow it; `begin` counts from there. */
export function decodeHeader(
  bytes: Uint8Array,
  contentBytes: number,
): { fields: ({ name: string } & Field)[]; metadata: Record<string, string> } {
  const header = parseHeader(bytes);
  const metadata = Object.hasOwn(header, METADATA) ? checkMetadata(METADATA, header[METADATA], failMetadata) : {};
  const fields = Object.keys(header)
    .filter((name) => name !== METADATA)
    .map((name) => ({ name, ...parseField(name, header[name]) }));
  checkCoverage(fields, contentBytes);
  return { fields, metadata };
}

/** @internal A tensor as a header describes it. */
export interface Field {
  /** The dtype's name in the file. */
  code: string;
  /** Undefined for a dtype that cannot be read: it may stand beside tensors that are. */
  row: DtypeRow | undefined;
  shape: number[];
  begin: number;
  end: number;
}

/** @internal The dtype of a tensor that is to be read. */
export function knownDtype({ row, code }: Pick<Field, 'row' | 'code'>, what: string): DtypeRow {
  return row ?? failFile(what, `one of ${DTYPES.map((known) => known.code).join(', ')}`, JSON.stringify(code));
}

/** @internal Checks a tensor that is to be written; `tensors` names the object it belongs to. */
export function checkEntry(name: string, entry: SafetensorsEntry, tensors = 'tensors'): DtypeRow {
  if (name === METADATA) failValue('a tensor name', `other than the reserved ${METADATA}`, name);
  const at = `${tensors}[${shortened(JSON.stringify(name))}]`;
  if (typeof entry !== 'object' || entry === null) failType(at, 'an object with dtype, shape and data', entry);
  const row = DTYPES.find(({ dtype }) => dtype === entry.dtype);
  if (!row) failValue(`${at}.dtype`, `one of ${DTYPES.map(({ dtype }) => `'${dtype}'`).join(', ')}`, entry.dtype);
  const count = elementCount(entry.shape);
  if (count === undefined) failValue(`${at}.shape`, 'a list of integers >= 0', entry.shape);
  if (!isTypedArrayOf(row.Data, entry.data)) failType(`${at}.data`, `a ${row.Data.name} for ${row.dtype}`, entry.data);
  if (entry.data.length !== count) {
    failValue(
      `${at}.data`,
      `of length ${count} for shape [${shortened(entry.shape.join())}]`,
      entry.data,
      'ERR_SDPO_INVALID_LENGTH',
    );
  }
  return row;
}

function parseHeader(bytes: Uint8Array): Record<string, unknown> {
  let text: string;
  let header: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    header = JSON.parse(text);
  } catch (error) {
    failFile('the header', 'JSON in UTF-8', (error as Error).message);
  }
  // The format wants the brace as the first byte, so that the start of a file can be recognised.
  if (bytes[0] !== BRACE || !isRecord(header))
    failFile('the header', 'a JSON object that starts at byte 8', describe(header));
  const problem = jsonProblem(text);
  if (problem !== undefined) failFile('the header', SOUND_JSON, problem);
  return header;
}

function parseField(name: string, value: unknown): Field {
  const at = `header field ${JSON.stringify(name)}`;
  if (!isRecord(value)) failFile(at, 'an object with dtype, shape and data_offsets', describe(value));
  const { dtype: code } = value;
  if (typeof code !== 'string') failFile(`${at}.dtype`, 'the name of a dtype', describe(code));
  const row = DTYPES.find((known) => known.code === code);
  const count = elementCount(value.shape);
  if (count === undefined) failFile(`${at}.shape`, 'a list of integers >= 0', JSON.stringify(value.shape));
  const offsets = value.data_offsets;
  if (elementCount(offsets) === undefined || (offsets as number[]).length !== 2) {
    failFile(`${at}.data_offsets`, 'two integers >= 0', JSON.stringify(offsets));
  }
  const [begin, end] = offsets as [number, number];
  // Of another dtype only the order is known: some take less than a byte.
  const size = row === undefined ? Math.max(end - begin, 0) : count * row.Data.BYTES_PER_ELEMENT;
  if (end - begin !== size) {
    failFile(`${at}.data_offsets`, `${size} bytes apart for ${code} [${value.shape}]`, `[${begin}, ${end}]`);
  }
  return { code, row, shape: value.shape as number[], begin, end };
}

/** The tensors must fill the data exactly, one after another: a hole could hide data, an overlap would alias two tensors. */
function checkCoverage(fields: readonly ({ name: string } & Field)[], size: number): void {
  let position = 0;
  for (const { name, begin, end } of [...fields].sort((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== position) {
      failFile(
        `header field ${JSON.stringify(name)}.data_offsets`,
        `consecutive from ${position}`,
        `[${begin}, ${end}]`,
      );
    }
    position = end;
  }
  if (position !== size) failFile('the tensor data', `${position} bytes long`, `${size} bytes`);
}

function checkMetadata(
  argument: string,
  value: unknown,
  fail: (argument: string, expected: string, received: unknown) => never,
): Record<string, string> {
  if (!isRecord(value)) fail(argument, 'an object of strings', value);
  for (const [key, text] of Object.entries(value)) {
    if (typeof text !== 'string') fail(`${argument}[${shortened(JSON.stringify(key))}]`, 'a string', text);
  }
  return { ...value } as Record<string, string>;
}

/** The product of a list of integers >= 0, or undefined if it is no such list or the product is not exact. */
function elementCount(shape: unknown): number | undefined {
  if (!Array.isArray(shape) || !shape.every((size) => Number.isSafeInteger(size) && size >= 0)) return undefined;
  const count = shape.reduce((product: number, size: number) => product * size, 1);
  return Number.isSafeInteger(count) ? count : undefined;
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function failMetadata(argument: string, expected: string, received: unknown): never {
  failFile(argument, expected, describe(received));
}

/** Characters of a part of a message that a file may have chosen. */
const MOST_TEXT = 250;

/** The common message shape with text for what was received, since a file is not a JavaScript value; undefined where it has no such field. */
function failFile(what: string, expected: string, received: string | undefined): never {
  throw new SdpoRangeError(
    'ERR_SDPO_INVALID_ARG_VALUE',
    `Expected ${shortened(what, MOST_TEXT)} of the safetensors file to be ${shortened(expected, MOST_TEXT)}, received ${shortened(received ?? 'nothing', MOST_TEXT)}`,
  );
}
