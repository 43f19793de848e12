/** Sources of preference pairs: round trips in every format, random access, and what does not fit named with file and row. */

import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ColumnSource } from 'hyparquet-writer';
import t from 'tap';
import { bfloat16Value, encode, float16Value } from '../../lib/tensor/dtypes.js';
import { createRandom } from '../../lib/tensor/noise.js';
import { encodeSafetensors, type SafetensorsEntry } from '../../lib/tensor/safetensors.js';
import { pairsFromArray, pairsFromParquet, pairsFromSafetensors, pairsFromStream } from '../../lib/trainer/data.js';
import type { PairDataset, PreferencePair } from '../../lib/trainer/types.js';
import { type ParquetFile, writeParquet } from '../helpers/parquet.js';

const SHAPE = [2, 3];
const SIZE = 6;
const random = createRandom(5);
const values = (count: number) => Float32Array.from({ length: count }, () => random() - 0.5);
const pair = (id: string, more: Partial<PreferencePair> = {}): PreferencePair => ({
  id,
  chosen: values(SIZE),
  rejected: values(SIZE),
  ...more,
});
const f32 = (shape: number[], data: Float32Array): SafetensorsEntry => ({ dtype: 'float32', shape, data });

async function all<C>(data: PairDataset<C>): Promise<PreferencePair<C>[]> {
  const out: PreferencePair<C>[] = [];
  for (let i = 0; i < data.length; i++) out.push(await data.get(i));
  return out;
}

t.test('an array: the very pairs, a shape, and a fingerprint of the content', async (t) => {
  const pairs = [pair('a', { condition: 'cat' }), pair('b', { confidence: 0 }), pair('c', { condition: values(2) })];
  const data = pairsFromArray(pairs, { shape: SHAPE });
  t.same([data.kind, data.length, data.shape], ['indexed', 3, SHAPE]);
  for (const [i, one] of pairs.entries()) t.equal(await data.get(i), one);
  t.same(pairsFromArray(pairs).shape, [SIZE], 'one axis by default');
  t.throws(() => data.get(3), { code: 'ERR_SDPO_INVALID_ARG_VALUE', message: /index .* between 0 and 2/ });
  t.throws(() => data.get(0.5), /index/);

  const { fingerprint } = data;
  t.equal(pairsFromArray([...pairs], { shape: SHAPE }).fingerprint, fingerprint, 'the same content');
  const changed: [string, PreferencePair[], number[]?][] = [
    ['order', [pairs[1], pairs[0], pairs[2]]],
    ['id', [{ ...pairs[0], id: 'z' }, pairs[1], pairs[2]]],
    ['chosen', [{ ...pairs[0], chosen: pairs[1].chosen }, pairs[1], pairs[2]]],
    ['rejected', [{ ...pairs[0], rejected: pairs[1].chosen }, pairs[1], pairs[2]]],
    ['condition', [{ ...pairs[0], condition: 'dog' }, pairs[1], pairs[2]]],
    ['typed condition', [pairs[0], pairs[1], { ...pairs[2], condition: values(2) }]],
    ['confidence', [pairs[0], { ...pairs[1], confidence: 1 }, pairs[2]]],
    ['shape', pairs, [3, 2]],
  ];
  for (const [name, other, shape = SHAPE] of changed) {
    t.not(pairsFromArray(other, { shape }).fingerprint, fingerprint, name);
  }
  t.equal(pairsFromArray(pairs, { fingerprint: 'mine' }).fingerprint, 'mine');
  const odd = pairsFromArray([pair('f', { condition: { call: () => 1 } })]);
  t.throws(() => odd.fingerprint, { code: 'ERR_SDPO_DATA', message: /condition of pair f .* options.fingerprint/ });
});

t.test('an array with a pair that does not fit', async (t) => {
  const good = pair('a');
  const bad = (change: object) => () => pairsFromArray([good, { ...good, id: 'b', ...change } as PreferencePair]);
  const nan = new Float32Array(SIZE).fill(0);
  nan[4] = NaN;
  t.throws(bad({ chosen: values(5) }), { code: 'ERR_SDPO_DATA', message: /chosen of pairs\[1\] \(b\).* length 6/ });
  t.throws(bad({ rejected: [1, 2] }), /rejected of pairs\[1\] \(b\) .* Float32Array, received Array/);
  t.throws(bad({ rejected: nan }), /element 4 of rejected of pairs\[1\] \(b\) to be finite, received NaN/);
  t.throws(bad({ confidence: -1 }), /confidence of pairs\[1\] \(b\) .* >= 0, received -1/);
  t.throws(bad({ confidence: Infinity }), /confidence/);
  t.throws(bad({ prompt: 'a cat' }), {
    code: 'ERR_SDPO_DATA',
    message: /pairs\[1\] to have only the fields id, chosen, rejected, condition, confidence, received "prompt"/,
  });
  t.throws(bad({ id: 7 }), /id of pairs\[1\] to be a string, received 7/);
  t.throws(() => pairsFromArray([null as never]), /pairs\[0\]|options.shape/);
  t.throws(() => pairsFromArray([]), { code: 'ERR_SDPO_INVALID_LENGTH' });
  t.throws(() => pairsFromArray('no' as never), TypeError);
  t.throws(() => pairsFromArray([good], { shape: [0] }), /options.shape\[0\]/);
  t.throws(() => pairsFromArray([good], { shap: [6] } as never), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
  t.throws(() => pairsFromArray([good], { nonFinite: 'skip' as never }), /options.nonFinite/);
  t.doesNotThrow(() => pairsFromArray([{ ...good, chosen: nan }], { nonFinite: 'propagate' }));
});

t.test('safetensors: every float dtype, conditions, confidences, shards and ids', async (t) => {
  const folder = t.testdir();
  const numbers = { a: values(4 * SIZE), b: values(4 * SIZE) };
  const tensors = (dtype: 'float64' | 'float32' | 'float16' | 'bfloat16'): Record<string, SafetensorsEntry> => ({
    chosen: { dtype, shape: [4, ...SHAPE], data: encode(dtype, numbers.a) },
    rejected: { dtype, shape: [4, ...SHAPE], data: encode(dtype, numbers.b) },
  });
  const exact = {
    float64: (x: number) => x,
    float32: (x: number) => x,
    float16: (x: number) => float16Value(encode('float16', [x])[0]),
    bfloat16: (x: number) => bfloat16Value(encode('bfloat16', [x])[0]),
  };
  for (const dtype of ['float64', 'float32', 'float16', 'bfloat16'] as const) {
    const path = join(folder, `${dtype}.safetensors`);
    writeFileSync(path, encodeSafetensors(tensors(dtype)));
    const data = await pairsFromSafetensors(path);
    t.same([data.kind, data.length, data.shape], ['indexed', 4, SHAPE], dtype);
    for (const row of [2, 0, 3, 1]) {
      const got = await data.get(row);
      const part = (x: Float32Array) => x.slice(row * SIZE, (row + 1) * SIZE).map(exact[dtype]);
      t.same(got, { id: `${dtype}.safetensors#${row}`, chosen: part(numbers.a), rejected: part(numbers.b) });
    }
  }

  const extra = {
    ...tensors('float32'),
    condition: { dtype: 'int64', shape: [4, 2], data: BigInt64Array.of(0n, 1n, 2n, 3n, 4n, 5n, 6n, 7n) } as const,
    confidence: { dtype: 'float16', shape: [4], data: encode('float16', [1, 0.5, 0, 2]) } as SafetensorsEntry,
  };
  const second = join(folder, 'second.safetensors');
  writeFileSync(second, encodeSafetensors(extra, { ids: JSON.stringify(['w', 'x', 'y', 'z']) }));
  const data = await pairsFromSafetensors([join(folder, 'float16.safetensors'), second]);
  t.equal(data.length, 8);
  t.equal((await data.get(3)).id, 'float16.safetensors#3');
  const last = await data.get(7);
  t.equal(last.id, 'z');
  t.equal(last.confidence, 2);
  t.same(last.condition, { dtype: 'int64', shape: [2], data: BigInt64Array.of(6n, 7n) });
  t.equal((await data.get(4)).confidence, 1);

  const renamed = { win: f32([4, ...SHAPE], numbers.a), lose: f32([4, ...SHAPE], numbers.b) };
  const third = join(folder, 'third.safetensors');
  writeFileSync(third, encodeSafetensors(renamed));
  const named = await pairsFromSafetensors(third, { names: { chosen: 'win', rejected: 'lose' } });
  t.same((await named.get(1)).chosen, (await data.get(5)).chosen);
  await t.rejects(pairsFromSafetensors(third), /third.safetensors .* the tensor 'chosen', received .*win/);

  const twins = t.testdir({ a: {}, b: {} });
  for (const side of ['a', 'b']) writeFileSync(join(twins, side, 'x.safetensors'), encodeSafetensors(renamed));
  const both = await pairsFromSafetensors([join(twins, 'a/x.safetensors'), join(twins, 'b/x.safetensors')], {
    names: { chosen: 'win', rejected: 'lose' },
  });
  t.equal((await both.get(4)).id, `${join(twins, 'b/x.safetensors')}#0`, 'a path where file names are alike');
});

t.test('safetensors: a dtype that cannot be read may stand beside the tensors that are', async (t) => {
  const path = join(t.testdir(), 'x.safetensors');
  const tensor = (dtype: string, shape: number[], begin: number, end: number) => ({
    ...{ dtype, shape, data_offsets: [begin, end] },
  });
  const write = (chosen: object) => {
    const fields = { chosen, rejected: tensor('F32', [1, 2], 8, 16), scale: tensor('F4', [6], 16, 19) };
    const json = Buffer.from(JSON.stringify({ ...fields, fp8: tensor('F8_E4M3', [2], 19, 21) }));
    const length = Buffer.alloc(8);
    length.writeBigUInt64LE(BigInt(json.length));
    writeFileSync(path, Buffer.concat([length, json, Buffer.alloc(21)]));
  };
  write(tensor('F32', [1, 2], 0, 8));
  const plain = await pairsFromSafetensors(path);
  t.same((await plain.get(0)).chosen, new Float32Array(2));
  await t.rejects(pairsFromSafetensors(path, { names: { condition: 'scale' } }), {
    code: 'ERR_SDPO_DATA',
    message: /dtype of scale in .*x.safetensors to be one that can be read, received "F4"/,
  });
  await t.rejects(pairsFromSafetensors(path, { names: { condition: 'none' } }), /received .*scale/, 'named among all');
  write(tensor('F6_E2M3', [1, 2], 0, 8));
  await t.rejects(pairsFromSafetensors(path), /dtype of chosen in .* received "F6_E2M3"/);
  write(tensor('F8_E5M2', [1, 8], 0, 8));
  await t.rejects(pairsFromSafetensors(path), /dtype of chosen in .* one of F64, F32, F16, BF16, received "F8_E5M2"/);
});

t.test('safetensors: fingerprints', async (t) => {
  const folder = t.testdir();
  const rows = 40_000;
  const chosen = f32([rows, SIZE], new Float32Array(rows * SIZE));
  const rejected = f32([rows, SIZE], new Float32Array(rows * SIZE));
  const at = (name: string) => join(folder, name);
  const write = (name: string) => writeFileSync(at(name), encodeSafetensors({ chosen, rejected }));
  write('a');
  write('b');
  const print = async (name: string, fingerprint?: 'sample' | 'content') =>
    (await pairsFromSafetensors(at(name), { fingerprint })).fingerprint;
  t.equal(await print('a'), await print('b'), 'the name of the file takes no part');
  t.not(await print('a'), await print('a', 'content'));
  chosen.data[0] = 1;
  write('b');
  t.not(await print('a', 'content'), await print('b', 'content'), 'one element');
  chosen.data[0] = 0;
  (chosen.data as Float32Array).fill(1, 0, rows);
  write('b');
  t.not(await print('a'), await print('b'), 'a sample sees a change of a sixth of the content');
  const joined = await pairsFromSafetensors([at('a'), at('b')]);
  const swapped = await pairsFromSafetensors([at('b'), at('a')]);
  t.not(joined.fingerprint, swapped.fingerprint, 'the order of shards');
});

t.test('safetensors: what does not fit is named with file and row', async (t) => {
  const folder = t.testdir();
  const path = join(folder, 'x.safetensors');
  const chosen = f32([2, SIZE], values(2 * SIZE));
  const rejected = f32([2, SIZE], values(2 * SIZE));
  const open = (tensors: Record<string, SafetensorsEntry>, metadata = {}) => {
    writeFileSync(path, encodeSafetensors(tensors, metadata));
    return pairsFromSafetensors(path);
  };
  const ints = { dtype: 'int32', shape: [2, SIZE], data: new Int32Array(2 * SIZE) } as const;
  const fails: [string, Record<string, SafetensorsEntry>, RegExp, object?][] = [
    ['missing', { chosen }, /x.safetensors .* 'rejected', received "the tensors chosen"/],
    ['dtype', { chosen: ints, rejected }, /dtype of chosen in .*x.safetensors .* F64, F32, F16, BF16, received "I32"/],
    ['shape', { chosen, rejected: f32([1, SIZE], values(SIZE)) }, /shape of rejected in .*x.safetensors to be \[2,6\]/],
    ['rank', { chosen: f32([2], values(2)), rejected: f32([2], values(2)) }, /shape of chosen/],
    ['confidence', { chosen, rejected, confidence: f32([3], values(3)) }, /shape of confidence/],
    ['condition', { chosen, rejected, condition: f32([1, 2], values(2)) }, /shape of condition/],
    ['ids', { chosen, rejected }, /ids in the metadata of .*x.safetensors/, { ids: '["a"]' }],
    ['ids text', { chosen, rejected }, /ids in the metadata/, { ids: '[' }],
    ['ids type', { chosen, rejected }, /ids\[1\]/, { ids: '["a",1]' }],
    ['nothing', { chosen: f32([0, 1], values(0)), rejected: f32([0, 1], values(0)) }, /at least one pair/],
  ];
  for (const [name, tensors, message, metadata] of fails) {
    await t.rejects(open(tensors, metadata), { code: 'ERR_SDPO_DATA', message }, name);
  }
  const nan = f32([2, SIZE], values(2 * SIZE));
  nan.data[SIZE + 2] = Infinity;
  const data = await open({ chosen, rejected: nan, confidence: f32([2], Float32Array.of(-1, 1)) });
  await t.rejects(data.get(1) as Promise<unknown>, {
    code: 'ERR_SDPO_DATA',
    message: /element 2 of rejected in row 1 of .*x.safetensors to be finite, received Infinity/,
  });
  await t.rejects(data.get(0) as Promise<unknown>, /confidence in row 0 of .*x.safetensors .* received -1/);
  const lenient = await pairsFromSafetensors(path, { nonFinite: 'propagate' });
  t.equal((await lenient.get(1)).rejected[2], Infinity);
  t.throws(() => data.get(2), /index/);

  const bytes = readFileSync(path);
  for (const length of [0, 4, 20, bytes.length - 1]) {
    writeFileSync(path, bytes.subarray(0, length));
    const error = await pairsFromSafetensors(path).catch((error) => error);
    t.match(error, { code: 'ERR_SDPO_DATA', message: /x.safetensors/ }, `cut to ${length} bytes`);
  }
  writeFileSync(path, bytes);
  const later = await pairsFromSafetensors(path, { nonFinite: 'propagate' });
  truncateSync(path, bytes.length - 4);
  await t.rejects(later.get(1) as Promise<unknown>, /x.safetensors to be \d+ bytes long, received/, 'cut afterwards');
  await t.rejects(pairsFromSafetensors(join(folder, 'none')), { code: 'ERR_SDPO_DATA', message: /none .* ENOENT/ });
  await t.rejects(pairsFromSafetensors([]), { code: 'ERR_SDPO_INVALID_LENGTH' });
  await t.rejects(pairsFromSafetensors([1 as never]), /files\[0\]/);
  await t.rejects(pairsFromSafetensors(path, { names: { chosen: 1 as never } }), /options.names.chosen/);
  await t.rejects(pairsFromSafetensors(path, { fingerprint: 'x' as never }), /options.fingerprint/);

  const wide = join(folder, 'wide.safetensors');
  writeFileSync(path, bytes);
  writeFileSync(wide, encodeSafetensors({ chosen: f32([1, 2], values(2)), rejected: f32([1, 2], values(2)) }));
  await t.rejects(pairsFromSafetensors([path, wide]), /shape of a sample in .*wide.* \[6\], as in .*x.safe.*\[2\]/);
});

function parquet(filename: string, columnData: ColumnSource[], more: Partial<ParquetFile> = {}): void {
  writeParquet({ filename, columnData, ...more });
}

const bytesOf = (x: Float32Array) => new Uint8Array(x.slice().buffer);
const LIST_SCHEMA = (name: string, type: 'FLOAT' | 'DOUBLE') => [
  { name, repetition_type: 'OPTIONAL', num_children: 1, converted_type: 'LIST' } as const,
  { name: 'list', repetition_type: 'REPEATED', num_children: 1 } as const,
  { name: 'element', repetition_type: 'OPTIONAL', type } as const,
];

t.test('Parquet: bytes and lists, over row groups and files, in any order', async (t) => {
  const folder = t.testdir();
  const rows = 10;
  const pairs = Array.from({ length: rows }, (_, i) =>
    pair(`p${i}`, { confidence: i / 4, condition: { prompt: `${i}`, n: [i] } }),
  );
  const common: ColumnSource[] = [
    { name: 'id', data: pairs.map(({ id }) => id), type: 'STRING' },
    { name: 'confidence', data: pairs.map(({ confidence }) => confidence), type: 'DOUBLE' },
    { name: 'condition', data: pairs.map(({ condition }) => condition), type: 'JSON' },
  ];
  const binary: ColumnSource[] = (['chosen', 'rejected'] as const).map((name) => ({
    name,
    data: pairs.map((pair) => bytesOf(pair[name])),
    type: 'BYTE_ARRAY',
  }));
  const lists: ColumnSource[] = (['chosen', 'rejected'] as const).map((name) => ({
    name,
    data: pairs.map((pair) => Array.from(pair[name])),
  }));
  const at = (name: string) => join(folder, name);
  parquet(at('bytes.parquet'), [...binary, ...common], { rowGroupSize: 3 });
  parquet(at('gzip.parquet'), [...binary, ...common], { rowGroupSize: 4, codec: 'GZIP' });
  parquet(at('brotli.parquet'), [...binary, ...common], { codec: 'BROTLI' });
  parquet(at('lists.parquet'), [...lists, ...common.map(({ name, data }) => ({ name, data }))], {
    rowGroupSize: 4,
    schema: [
      { name: 'root', num_children: 5 },
      ...LIST_SCHEMA('chosen', 'FLOAT'),
      ...LIST_SCHEMA('rejected', 'DOUBLE'),
      { name: 'id', type: 'BYTE_ARRAY', converted_type: 'UTF8', repetition_type: 'REQUIRED' },
      { name: 'confidence', type: 'DOUBLE', repetition_type: 'REQUIRED' },
      { name: 'condition', type: 'BYTE_ARRAY', converted_type: 'JSON', repetition_type: 'REQUIRED' },
    ],
  });
  for (const name of ['bytes.parquet', 'gzip.parquet', 'brotli.parquet', 'lists.parquet']) {
    for (const cachedGroups of [1, 2, 9]) {
      const data = await pairsFromParquet(at(name), { shape: SHAPE, cachedGroups });
      t.same([data.kind, data.length, data.shape], ['indexed', rows, SHAPE], name);
      for (const i of [9, 0, 5, 1, 9, 4, 3, 2, 6, 7, 8]) t.same(await data.get(i), pairs[i], `${name} row ${i}`);
      t.same(await Promise.all(pairs.map((_, i) => data.get(i))), pairs, 'all at once');
    }
  }
  const two = await pairsFromParquet([at('bytes.parquet'), at('lists.parquet')], { shape: SHAPE });
  t.same(await all(two), [...pairs, ...pairs]);

  parquet(at('plain.parquet'), [
    { ...binary[0], name: 'w' },
    { ...binary[1], name: 'l' },
    { name: 'k', data: pairs.map((_, i) => BigInt(i)), type: 'INT64' },
  ]);
  const columns = { chosen: 'w', rejected: 'l', condition: 'k' };
  const plain = await pairsFromParquet(at('plain.parquet'), { shape: SHAPE, columns });
  t.same(await plain.get(2), {
    id: 'plain.parquet#2',
    chosen: pairs[2].chosen,
    rejected: pairs[2].rejected,
    condition: 2,
  });

  const { fingerprint } = await pairsFromParquet(at('bytes.parquet'), { shape: SHAPE });
  t.not(fingerprint, (await pairsFromParquet(at('bytes.parquet'), { shape: [6] })).fingerprint, 'the shape');
  t.not(fingerprint, (await pairsFromParquet(at('lists.parquet'), { shape: SHAPE })).fingerprint, 'the file');
  t.equal(fingerprint, (await pairsFromParquet(at('bytes.parquet'), { shape: SHAPE })).fingerprint, 'the same');
});

t.test('Parquet: what does not fit is named with file and row, and hinders no other row', async (t) => {
  const folder = t.testdir();
  const path = join(folder, 'x.parquet');
  const good = Array.from({ length: 4 }, () => values(SIZE));
  const nan = values(SIZE);
  nan[1] = NaN;
  parquet(path, [
    { name: 'chosen', data: [good[0], nan, good[2].subarray(1), good[3]].map(bytesOf), type: 'BYTE_ARRAY' },
    { name: 'rejected', data: [bytesOf(good[0]), bytesOf(good[1]), bytesOf(good[2]), null], type: 'BYTE_ARRAY' },
    { name: 'confidence', data: [-2, 1, 1, 1], type: 'DOUBLE' },
    { name: 'odd', data: [null, 'b', 'c', 'd'], type: 'STRING' },
  ]);
  const data = await pairsFromParquet(path, { shape: [SIZE], columns: { confidence: 'confidence' } });
  const get = (i: number) => data.get(i) as Promise<unknown>;
  await t.rejects(get(0), { code: 'ERR_SDPO_DATA', message: /confidence in row 0 of .*x.parquet .* received -2/ });
  await t.rejects(get(1), /element 1 of chosen in row 1 of .*x.parquet to be finite/);
  await t.rejects(get(2), /chosen in row 2 of .*x.parquet to be 24 bytes \(6 float32\), received "20 bytes"/);
  await t.rejects(get(3), /rejected in row 3 of .*x.parquet .* received (null|undefined)/);
  await t.rejects(async () => data.get(4), /index/);
  const missing = pairsFromParquet(path, { shape: [SIZE], columns: { id: 'name' } });
  await t.rejects(missing, /x.parquet .* the column 'name', received .*chosen, rejected, confidence, odd/);
  const named = await pairsFromParquet(path, { shape: [SIZE], columns: { id: 'odd' }, nonFinite: 'propagate' });
  await t.rejects(named.get(0) as Promise<unknown>, /odd in row 0 of .*x.parquet to be a string or a number/);
  t.equal((await named.get(1)).id, 'b');
  t.ok(Number.isNaN((await named.get(1)).chosen[1]));

  const lists = join(folder, 'lists.parquet');
  parquet(
    lists,
    [
      {
        name: 'chosen',
        data: [
          [1, 2],
          [1, 2, 3],
          [1, null],
        ],
      },
      {
        name: 'rejected',
        data: [
          [1, 2],
          [1, 2],
          [1, 2],
        ],
      },
    ],
    {
      schema: [
        { name: 'root', num_children: 2 },
        ...LIST_SCHEMA('chosen', 'FLOAT'),
        ...LIST_SCHEMA('rejected', 'FLOAT'),
      ],
    },
  );
  const short = await pairsFromParquet(lists, { shape: [2] });
  t.same((await short.get(0)).chosen, Float32Array.of(1, 2));
  await t.rejects(short.get(1) as Promise<unknown>, /chosen in row 1 of .*lists.parquet to be of length 2/);
  await t.rejects(short.get(2) as Promise<unknown>, /element 1 of chosen in row 2 of .*lists.parquet to be a number/);

  const bytes = readFileSync(path);
  truncateSync(path, bytes.length - 3);
  await t.rejects(pairsFromParquet(path, { shape: [SIZE] }), /x.parquet to be a complete Parquet file/);
  writeFileSync(path, bytes);
  // The footer is whole, the pages are not.
  const damaged = Buffer.from(bytes);
  damaged.fill(0xff, 4, 60);
  writeFileSync(path, damaged);
  const broken = await pairsFromParquet(path, { shape: [SIZE] });
  await t.rejects(broken.get(0) as Promise<unknown>, { code: 'ERR_SDPO_DATA', message: /rows 0 to 3 of .*x.parquet/ });
  writeFileSync(path, bytes);
  await t.rejects(broken.get(1) as Promise<unknown>, /element 1 of chosen in row 1/, 'a failed read is tried again');

  await t.rejects(pairsFromParquet(join(folder, 'none'), { shape: [1] }), { code: 'ERR_SDPO_DATA', message: /none/ });
  await t.rejects(pairsFromParquet(path, {} as never), /options.shape/);
  await t.rejects(pairsFromParquet(path, { shape: [SIZE], cachedGroups: 0 }), /options.cachedGroups/);
  await t.rejects(pairsFromParquet(path, { shape: [SIZE], columns: { prompt: 'x' } as never }), {
    code: 'ERR_SDPO_UNKNOWN_OPTION',
  });
});

t.test('a stream: from a position, by a function, an array and a generator', async (t) => {
  const pairs = Array.from({ length: 5 }, (_, i) => pair(`s${i}`));
  const options = { shape: SHAPE, fingerprint: 'v1' };
  const read = async (iterator: AsyncIterator<PreferencePair>) => {
    const ids: string[] = [];
    for (let next = await iterator.next(); !next.done; next = await iterator.next()) ids.push(next.value.id);
    return ids;
  };
  const positions: number[] = [];
  let closed = 0;
  async function* from(position: number) {
    positions.push(position);
    try {
      yield* pairs.slice(position);
    } finally {
      closed++;
    }
  }
  const seeking = pairsFromStream(from, options);
  t.same([seeking.kind, seeking.shape, seeking.fingerprint], ['stream', SHAPE, 'v1']);
  t.same(await read(seeking.read(0)), ['s0', 's1', 's2', 's3', 's4']);
  t.same(await read(seeking.read(3)), ['s3', 's4']);
  t.same(positions, [0, 3], 'the function seeks');
  const stopped = seeking.read(1);
  await stopped.next();
  await stopped.return?.();
  t.equal(closed, 3, 'stopping closes the source');

  const list = pairsFromStream(pairs, options);
  t.same(await read(list.read(4)), ['s4']);
  t.same(await read(list.read(0)), ['s0', 's1', 's2', 's3', 's4'], 'an array is read again');
  t.same(await read(list.read(5)), []);
  await t.rejects(list.read(6).next(), { code: 'ERR_SDPO_DATA', message: /6 pairs to skip, received 5/ });

  const once = pairsFromStream(from(0), options);
  t.same(await read(once.read(2)), ['s2', 's3', 's4'], 'a generator, skipped to the position');
  t.throws(() => once.read(0), { code: 'ERR_SDPO_DATA', message: /read before/ });

  const bad = pairsFromStream([pairs[0], { ...pairs[1], rejected: values(1) }], options);
  const iterator = bad.read(0);
  await iterator.next();
  await t.rejects(iterator.next(), { code: 'ERR_SDPO_DATA', message: /rejected of the pair at position 1 \(s1\)/ });
  t.throws(() => pairsFromStream(5 as never, options), TypeError);
  t.throws(() => pairsFromStream(pairs, { shape: SHAPE } as never), /options.fingerprint/);
  t.throws(() => list.read(-1), /position/);
  t.throws(() => pairsFromStream(() => 1 as never, options).read(0), /the result of source\(position\)/);
});
