/** Unpacks the pages of a Parquet file into exactly as many bytes as they say, and no more. */

import * as zlib from 'node:zlib';
import { snappyUncompress } from 'hyparquet';
import { damaged } from './damage.js';

/** @param bytes of the result; one that would be longer is an error before it is made */
type Unpack = (packed: Uint8Array, bytes: number) => Uint8Array;

/** Zstandard is in Node since 22.15 and 23.8, later than the types this is compiled with. */
type ZlibUnpack = (packed: Uint8Array, options: { maxOutputLength: number }) => Uint8Array;
const { zstdDecompressSync } = zlib as { zstdDecompressSync?: ZlibUnpack };

const withLimit =
  (unpack: ZlibUnpack): Unpack =>
  (packed, bytes) =>
    unpack(packed, { maxOutputLength: Math.max(bytes, 1) });

const UNPACK: Readonly<Record<string, Unpack>> = {
  UNCOMPRESSED: (packed) => packed,
  SNAPPY: unpackSnappy,
  GZIP: withLimit(zlib.gunzipSync),
  BROTLI: withLimit(zlib.brotliDecompressSync),
  ...(zstdDecompressSync && { ZSTD: withLimit(zstdDecompressSync) }),
};

/** What helps where a codec cannot be read here; undefined where it can. */
export function hindranceOf(codec: string): string | undefined {
  if (Object.hasOwn(UNPACK, codec)) return undefined;
  const readable = 'write the file uncompressed or with Snappy, gzip or Brotli';
  if (codec !== 'ZSTD') return `which this reader does not have: ${readable}, or Zstandard`;
  return `which needs Node 22.15 or 23.8 or newer, and this is ${process.versions.node}: use a newer Node, or ${readable}`;
}

/** The content of a page. */
export function unpack(codec: string, packed: Uint8Array, bytes: number): Uint8Array {
  let page: Uint8Array;
  try {
    page = UNPACK[codec]!(packed, bytes);
  } catch (error) {
    // ERR_BUFFER_TOO_LARGE among them.
    damaged(`a page that does not unpack to its ${bytes} bytes: ${(error as Error).message}`);
  }
  if (page.length !== bytes) damaged(`a page of ${page.length} bytes in place of ${bytes}`);
  return page;
}

function unpackSnappy(packed: Uint8Array, bytes: number): Uint8Array {
  checkSnappy(packed, bytes);
  const page = new Uint8Array(bytes);
  snappyUncompress(packed, page);
  return page;
}

/**
 * Walks over the elements of Snappy's raw format (google/snappy, format_description.txt): hyparquet's decoder takes a long literal for one of a
 * negative length and then never ends, and copies from in front of the page.
 */
function checkSnappy(packed: Uint8Array, bytes: number): void {
  let [at, length] = [0, 0];
  for (let shift = 0; ; shift += 7) {
    if (at >= packed.length || shift > 28) damaged('a Snappy page without a length');
    const byte = packed[at++]!;
    length += (byte & 0x7f) * 2 ** shift;
    if (byte < 0x80) break;
  }
  if (length !== bytes) damaged(`a Snappy page of ${length} bytes in place of ${bytes}`);
  let made = 0;
  while (at < packed.length) {
    const tag = packed[at++]!;
    const kind = tag & 3;
    // Bytes of a length of its own (literals), or of the distance of a copy.
    const more = kind === 0 ? Math.max((tag >> 2) - 59, 0) : kind === 3 ? 4 : kind;
    let number = 0;
    for (let i = 0; i < more; i++) number += (packed[at + i] ?? 0) * 2 ** (8 * i);
    at += more;
    if (kind === 0) {
      const literal = 1 + (more === 0 ? tag >> 2 : number);
      at += literal;
      made += literal;
    } else {
      const distance = kind === 1 ? number + (tag >> 5) * 256 : number;
      if (distance === 0 || distance > made) damaged('a Snappy page that refers to what is not there');
      made += kind === 1 ? ((tag >> 2) & 7) + 4 : (tag >> 2) + 1;
    }
    if (at > packed.length || made > bytes) damaged('a Snappy page whose parts do not fit');
  }
  if (made !== bytes) damaged(`a Snappy page with ${made} of its ${bytes} bytes`);
}
