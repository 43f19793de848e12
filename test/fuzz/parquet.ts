/** Parquet files of every layout that a writer at hand and our own hand give, damaged. */

import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import zlib from 'node:zlib';
import { pairsFromParquet } from '../../lib/trainer/data.js';
import type { PreferencePair } from '../../lib/trainer/types.js';
import { type ParquetFile, writeParquet } from '../helpers/parquet.js';
import {
  byteArrays,
  CODEC,
  ENCODING,
  floats,
  type HandColumn,
  levels,
  PHYSICAL,
  page,
  parquetByHand,
  run,
} from '../helpers/parquet-by-hand.js';
import { demand, isRefusal, type Seed, type Target } from './target.js';

const SIZE = 4;
const SHAPE = [2, 2];
const ROWS = 7;

const latent = (row: number) => Float32Array.from({ length: SIZE }, (_, i) => row + i / 8);
const rows = Array.from({ length: ROWS }, (_, row) => row);

/** Files of hyparquet-writer, which has pages of version 2 and no checksums. */
function written(folder: string): Seed[] {
  const bytes = (name: string) => ({
    ...{ name, type: 'BYTE_ARRAY' as const, data: rows.map((row) => new Uint8Array(latent(row).buffer)) },
  });
  const listSchema = (name: string, depth: number): NonNullable<ParquetFile['schema']> => [
    ...Array.from({ length: depth }, (_, i) => [
      {
        name: i === 0 ? name : 'element',
        repetition_type: 'OPTIONAL',
        num_children: 1,
        converted_type: 'LIST',
      } as const,
      { name: 'list', repetition_type: 'REPEATED', num_children: 1 } as const,
    ]).flat(),
    { name: 'element', repetition_type: 'OPTIONAL', type: 'FLOAT' } as const,
  ];
  const id = { name: 'id', data: rows.map((row) => `pair ${row}`), type: 'STRING' as const };
  const confidence = { name: 'confidence', data: rows.map((row) => row / 4), type: 'DOUBLE' as const };
  const json = {
    name: 'condition',
    data: rows.map((row) => ({ prompt: `p${row % 2}`, n: [row] })),
    type: 'JSON' as const,
  };
  const common = [id, confidence, json];
  const lists = (name: string, depth: number) => ({
    name,
    data: rows.map((row) => {
      const [a, b, c, d] = latent(row);
      return depth === 1
        ? [a, b, c, d]
        : [
            [a, b],
            [c, d],
          ];
    }),
  });
  const listFile = (depth: number): Omit<ParquetFile, 'filename'> => ({
    columnData: [lists('chosen', depth), lists('rejected', depth), { name: 'id', data: id.data }],
    schema: [
      { name: 'root', num_children: 3 },
      ...listSchema('chosen', depth),
      ...listSchema('rejected', depth),
      { name: 'id', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'OPTIONAL' },
    ],
  });
  const plain = [bytes('chosen'), bytes('rejected'), ...common];
  const encoded = (encoding: 'DELTA_BYTE_ARRAY' | 'DELTA_LENGTH_BYTE_ARRAY') => [
    ...plain.slice(0, 2),
    { ...id, encoding },
    {
      name: 'condition',
      data: rows.map((row) => row * row),
      type: 'INT32' as const,
      encoding: 'DELTA_BINARY_PACKED' as const,
    },
  ];
  const files: Record<string, Omit<ParquetFile, 'filename'>> = {
    uncompressed: { columnData: plain, codec: 'UNCOMPRESSED', rowGroupSize: 3 },
    snappy: { columnData: plain, codec: 'SNAPPY' },
    gzip: { columnData: plain, codec: 'GZIP', rowGroupSize: 4 },
    brotli: { columnData: plain, codec: 'BROTLI' },
    lists: { ...listFile(1), codec: 'UNCOMPRESSED' },
    nested: { ...listFile(2), codec: 'SNAPPY', rowGroupSize: 4 },
    prefixes: { columnData: encoded('DELTA_BYTE_ARRAY'), codec: 'UNCOMPRESSED' },
    lengths: { columnData: encoded('DELTA_LENGTH_BYTE_ARRAY'), codec: 'UNCOMPRESSED' },
  };
  writeParquet(...Object.entries(files).map(([name, file]) => ({ filename: join(folder, name), ...file })));
  return Object.keys(files).map((name) => ({ name, bytes: readFileSync(join(folder, name)) }));
}

/** A file with pages of version 1 under checksums: bytes by a dictionary, lists, and text in gzip. */
function byHand(): Seed {
  const covered: [number, number][] = [];
  let at = 4;
  const keep = (content: Buffer, options: Parameters<typeof page>[1]) => {
    const made = page(content, { ...options, crc: 'right' });
    covered.push([at + made.length - content.length, at + made.length]);
    at += made.length;
    return made;
  };
  const three = [0, 1, 2].map((row) => Buffer.from(latent(row).buffer));
  const text = byteArrays(...rows.map((row) => Buffer.from(`pair ${row}`)));
  const repetition = levels(Buffer.concat(rows.flatMap(() => [run(1, 0), run(SIZE - 1, 1)])));
  const content = Buffer.concat([
    repetition,
    levels(run(SIZE * ROWS, 3)),
    ...rows.map((row) => floats(...latent(row))),
  ]);
  const columns: HandColumn[] = [
    {
      ...{ name: 'chosen', type: PHYSICAL.BYTE_ARRAY },
      pages: [
        keep(byteArrays(...three), { values: 3, kind: 'dictionary' }),
        keep(Buffer.concat([Buffer.of(2), run(3, 0), run(2, 1), run(2, 2)]), {
          values: ROWS,
          encoding: ENCODING.RLE_DICTIONARY,
        }),
      ],
    },
    {
      ...{ name: 'rejected', type: PHYSICAL.FLOAT, lists: 1, values: SIZE * ROWS },
      pages: [keep(content, { values: SIZE * ROWS })],
    },
    {
      ...{ name: 'id', type: PHYSICAL.BYTE_ARRAY, converted: 0, codec: CODEC.GZIP },
      pages: [keep(zlib.gzipSync(text), { values: ROWS, unpacked: text.length })],
    },
  ];
  return { name: 'by hand', bytes: parquetByHand({ columns, rows: ROWS }), covered };
}

/** @param corpus folder of further files, whose samples have 16 elements */
export async function parquetTarget(corpus?: string): Promise<Target> {
  const folder = mkdtempSync(join(tmpdir(), 'sdpo-fuzz-'));
  const own = [...written(folder), byHand()];
  rmSync(folder, { recursive: true });
  const names = corpus === undefined ? [] : readdirSync(corpus).filter((name) => name.endsWith('.parquet'));
  const others = names.map((name) => ({ name, bytes: readFileSync(join(corpus!, name)) }));
  const shapeOf = ({ name }: Seed) => (names.includes(name) ? [4, 4] : SHAPE);
  const whole = new Map<Seed, PreferencePair[]>();

  return {
    name: 'parquet',
    seeds: [...own, ...others],
    async read(path, seed, damaged, covered) {
      const shape = shapeOf(seed);
      if (damaged.equals(seed.bytes)) whole.set(seed, await all(path, shape, false));
      else if (!covered) await all(path, shape, true);
      else {
        const found = await all(path, shape, true);
        for (const pair of found) {
          demand(
            whole.get(seed)!.some((before) => isDeepStrictEqual(pair, before)),
            `another pair under a checksum: ${JSON.stringify(pair)}`,
          );
        }
      }
    },
  };
}

/** Every pair that can be read, each as a pair should be. */
async function all(path: string, shape: readonly number[], mayFail: boolean): Promise<PreferencePair[]> {
  const size = shape.reduce((a, b) => a * b);
  const data = await pairsFromParquet(path, { shape });
  demand(Number.isSafeInteger(data.length) && data.length > 0, `${data.length} pairs`);
  const out: PreferencePair[] = [];
  // A damaged footer may claim more rows than anybody asks for.
  for (let i = 0; i < Math.min(data.length, 64); i++) {
    try {
      const pair = await data.get(i);
      for (const branch of [pair.chosen, pair.rejected]) {
        demand(
          branch instanceof Float32Array && branch.length === size && branch.every(Number.isFinite),
          'a latent that is none',
        );
      }
      demand(typeof pair.id === 'string', 'an id that is none');
      demand(pair.confidence === undefined || pair.confidence >= 0, 'a confidence that is none');
      out.push(pair);
    } catch (error) {
      if (!mayFail || !isRefusal(error, /^ERR_SDPO_DATA$/)) throw error;
    }
  }
  return out;
}
