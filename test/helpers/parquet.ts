/** Writes Parquet files for tests, in a process of its own: the test runner's resolver does not know how the writer's package imports its own. */

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { serialize } from 'node:v8';
import type { ColumnSource, ParquetWriteOptions } from 'hyparquet-writer';

const PROGRAM = `
import { readFileSync } from 'node:fs';
import { deserialize } from 'node:v8';
import { brotliCompressSync, gzipSync } from 'node:zlib';
import { parquetWriteFile } from 'hyparquet-writer';
for (const options of deserialize(readFileSync(0))) {
  parquetWriteFile({ ...options, compressors: { GZIP: (bytes) => gzipSync(bytes), BROTLI: (bytes) => brotliCompressSync(bytes) } });
}
`;

export type ParquetFile = { filename: string; columnData: ColumnSource[] } & Pick<
  ParquetWriteOptions,
  'schema' | 'codec' | 'rowGroupSize'
>;

export function writeParquet(...files: ParquetFile[]): void {
  const { NODE_OPTIONS: _, ...env } = process.env;
  const { status, stderr } = spawnSync(process.execPath, ['--input-type=module', '-e', PROGRAM], {
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
    env,
    input: serialize(files),
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`the writer ended with ${status}: ${stderr}`);
}
