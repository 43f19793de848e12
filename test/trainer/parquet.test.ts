/** Damaged and hostile Parquet files, made by hand: each is an error that names file, rows and column, before anything is read elsewhere, allocated or repeated. */

import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import zlib from 'node:zlib';
import t from 'tap';
import { pairsFromParquet } from '../../lib/trainer/data.js';
import {
  byteArrays,
  CODEC,
  ENCODING,
  floats,
  type HandColumn,
  type HandFile,
  levels,
  PHYSICAL,
  page,
  parquetByHand,
  run,
  struct,
  varint,
} from '../helpers/parquet-by-hand.js';

const file = join(t.testdir(), 'x.parquet');
const SHAPE = [4];
const ROWS = 3;

const LATENTS = [floats(1, 2, 3, 4), floats(5, 6, 7, 8), floats(-1, -2, -3, -4)];
const bytesColumn = (name: string, change: Partial<HandColumn> = {}): HandColumn => ({
  ...{ name, type: PHYSICAL.BYTE_ARRAY, pages: [page(byteArrays(...LATENTS), { values: ROWS })] },
  ...change,
});
/** A list of 4 floats in each row, as Arrow writes them: levels and values. */
const LIST_LEVELS = [
  levels(...Array.from({ length: ROWS }, () => [run(1, 0), run(3, 1)]).flat()),
  levels(run(4 * ROWS, 3)),
];
const LIST_PAGE = Buffer.concat([...LIST_LEVELS, ...LATENTS]);
const listColumn = (name: string, change: Partial<HandColumn> = {}): HandColumn => ({
  ...{ name, type: PHYSICAL.FLOAT, lists: 1, values: 4 * ROWS, pages: [page(LIST_PAGE, { values: 4 * ROWS })] },
  ...change,
});
const idColumn = (pages: Buffer[], change: Partial<HandColumn> = {}): HandColumn => ({
  ...{ name: 'id', type: PHYSICAL.BYTE_ARRAY, converted: 0, pages },
  ...change,
});

async function open(columns: readonly HandColumn[], change: Partial<HandFile> = {}) {
  writeFileSync(file, parquetByHand({ columns, rows: ROWS, ...change }));
  return pairsFromParquet(file, { shape: SHAPE });
}

/** What is said of the first row that cannot be read. */
async function failure(columns: readonly HandColumn[], change: Partial<HandFile> = {}): Promise<string> {
  try {
    const data = await open(columns, change);
    for (let i = 0; i < data.length; i++) await data.get(i);
  } catch (error) {
    t.equal((error as { code?: string }).code, 'ERR_SDPO_DATA');
    const { message } = error as Error;
    t.ok(message.includes(file), `names the file: ${message}`);
    return message;
  }
  return 'read';
}

t.test('what is written by hand is read', async (t) => {
  const expected = (row: number) => new Float32Array(new Uint8Array(LATENTS[row]).buffer);
  const crc = 'right';
  const kinds: [string, HandColumn[]][] = [
    ['bytes', [bytesColumn('chosen'), bytesColumn('rejected')]],
    ['lists', [listColumn('chosen'), listColumn('rejected')]],
    [
      'a checksum',
      [bytesColumn('chosen', { pages: [page(byteArrays(...LATENTS), { values: ROWS, crc })] }), listColumn('rejected')],
    ],
    [
      'a dictionary',
      [
        bytesColumn('chosen', {
          pages: [
            page(byteArrays(...LATENTS), { values: ROWS, kind: 'dictionary' }),
            page(Buffer.concat([Buffer.of(2), run(1, 0), run(1, 1), run(1, 2)]), {
              values: ROWS,
              encoding: ENCODING.RLE_DICTIONARY,
            }),
          ],
        }),
        bytesColumn('rejected'),
      ],
    ],
    [
      'gzip in two pages',
      [
        bytesColumn('chosen', {
          codec: CODEC.GZIP,
          pages: [LATENTS.slice(0, 2), LATENTS.slice(2)].map((part) => {
            const plain = byteArrays(...part);
            return page(zlib.gzipSync(plain), { values: part.length, unpacked: plain.length });
          }),
        }),
        bytesColumn('rejected'),
      ],
    ],
    [
      // As Arrow does: empty lists are no nulls for it.
      'version 2 with an empty list',
      [
        bytesColumn('chosen'),
        bytesColumn('rejected'),
        {
          ...{ name: 'condition', type: PHYSICAL.INT32, lists: 1, values: ROWS },
          pages: [
            page(Buffer.concat([run(ROWS, 0), run(1, 1), run(2, 3), Buffer.of(7, 0, 0, 0, 8, 0, 0, 0)]), {
              ...{ kind: 'dataV2', values: ROWS, nulls: 0, repetitionBytes: 2, definitionBytes: 4 },
            }),
          ],
        },
      ],
    ],
    [
      // fastparquet leaves zeros behind the values.
      'zeros behind the values',
      [
        bytesColumn('chosen', {
          pages: [page(Buffer.concat([byteArrays(...LATENTS), Buffer.alloc(8)]), { values: ROWS })],
        }),
        bytesColumn('rejected'),
      ],
    ],
  ];
  for (const [name, columns] of kinds) {
    const data = await open(columns);
    for (let row = 0; row < ROWS; row++) {
      const pair = await data.get(row);
      t.same([pair.chosen, pair.rejected], [expected(row), expected(row)], `${name}, row ${row}`);
    }
    if (columns.length > 2) {
      t.same(await Promise.all([0, 1, 2].map(async (row) => (await data.get(row)).condition)), [[], [7], [8]], name);
    }
  }
});

t.test('a footer that lies', async (t) => {
  const columns = [bytesColumn('chosen'), bytesColumn('rejected')];
  const cases: [string, Partial<HandFile>, HandColumn[], RegExp][] = [
    ['rows that no byte justifies', { rows: 2 ** 40 }, columns, /row group 0 of 1099511627776 rows/],
    [
      'rows and values alike',
      { rows: 2 ** 40 },
      columns.map((column) => ({ ...column, values: 2 ** 40 })),
      /rows in \d+ bytes/,
    ],
    ['a negative number', { rows: -1 }, columns, /number of rows of -1/],
    ['a total that is another', { totalRows: 4 }, columns, /3 rows in its row groups, of 4/],
    [
      'values that are no rows',
      {},
      [bytesColumn('chosen', { values: 4 }), columns[1]],
      /3 rows with 4 values of chosen/,
    ],
    ['a column beyond the file', {}, [bytesColumn('chosen', { begin: 2 ** 40 }), columns[1]], /the column chosen at/],
    ['a size beyond the file', {}, [bytesColumn('chosen', { bytes: 2 ** 40 }), columns[1]], /the column chosen at/],
    ['a negative offset', {}, [bytesColumn('chosen', { begin: -5 }), columns[1]], /at an offset of -5/],
    [
      'two columns in one place',
      {},
      [bytesColumn('chosen'), bytesColumn('rejected', { begin: 4 })],
      /the column \w+ where/,
    ],
    ['a name that comes twice', {}, [...columns, bytesColumn('rejected')], /two columns of one name/],
    [
      'a list without an end',
      { footer: [0x19, 0xf9, 0xff, 0xff, 0xff, 0x0f] },
      columns,
      /a list of 33554431 in a header/,
    ],
    ['lists in lists', { footer: Array.from({ length: 5000 }, () => 0x19) }, columns, /nested more than 32 deep/],
    [
      'an integer without an end',
      { footer: [0x15, ...Array.from({ length: 9000 }, () => 0x80)] },
      columns,
      /integer of more than 5 bytes/,
    ],
    ['no schema', { footer: [0x15, 0x02, 0] }, columns, /a damaged footer/],
    [
      'values of no length',
      {},
      [bytesColumn('chosen', { type: PHYSICAL.FIXED, typeLength: 0 }), columns[1]],
      /values of 0 bytes/,
    ],
    [
      'long decimals',
      {},
      [bytesColumn('chosen', { type: PHYSICAL.FIXED, typeLength: 65, converted: 5 }), columns[1]],
      /values of 65 bytes/,
    ],
  ];
  for (const [name, change, given, message] of cases) t.match(await failure(given, change), message, name);

  const whole = parquetByHand({ columns, rows: ROWS });
  const changed = async (bytes: Uint8Array) => {
    writeFileSync(file, bytes);
    return pairsFromParquet(file, { shape: SHAPE }).then(
      () => 'read',
      (error: Error) => error.message,
    );
  };
  const patched = (at: number, byte: number) => Buffer.from(whole.map((old, i) => (i === at ? byte : old)));
  t.match(await changed(whole.subarray(0, 11)), /a file of 11 bytes that does not end as one/);
  t.match(await changed(whole.subarray(0, 3)), /a file of 3 bytes that does not begin as one/);
  t.match(await changed(patched(0, 0x51)), /does not begin as one/);
  t.match(await changed(patched(whole.length - 1, 0x32)), /does not end as one/);
  t.match(await changed(patched(whole.length - 5, 0x7f)), /a footer of \d+ bytes in a file of/);
  t.match(await changed(Buffer.from('version https://git-lfs.github.com/spec/v1\n')), /Git LFS pointer/);
  t.match(await changed(Buffer.from('PARE____________PARE')), /an encrypted Parquet file/);
});

t.test('a codec that cannot be read is said at the start', async (t) => {
  for (const name of ['chosen', 'condition']) {
    const columns = [bytesColumn('chosen'), bytesColumn('rejected'), idColumn([], { name: 'condition' })];
    const wrong = columns.map((column) => (column.name === name ? { ...column, codec: CODEC.LZ4_RAW } : column));
    await t.rejects(open(wrong), {
      code: 'ERR_SDPO_DATA',
      message: new RegExp(`the column ${name} of .*LZ4_RAW.*Snappy`),
    });
  }
  const zstd = [bytesColumn('chosen', { codec: CODEC.ZSTD }), bytesColumn('rejected')];
  if ('zstdDecompressSync' in zlib) await open(zstd);
  else await t.rejects(open(zstd), /received ZSTD, which needs Node 22\.15 or 23\.8 or newer/);
  // Of a column that nobody reads it does not matter.
  await open([bytesColumn('chosen'), bytesColumn('rejected'), idColumn([], { name: 'notes', codec: CODEC.LZ4_RAW })]);
});

t.test('a page that lies', async (t) => {
  const plain = byteArrays(...LATENTS);
  const other = bytesColumn('rejected');
  const bytes = (
    content: Uint8Array,
    options: Partial<Parameters<typeof page>[1]> = {},
    change: Partial<HandColumn> = {},
  ) => [bytesColumn('chosen', { pages: [page(content, { values: ROWS, ...options })], ...change }), other];
  const lists = (
    content: Uint8Array,
    options: Partial<Parameters<typeof page>[1]> = {},
    change: Partial<HandColumn> = {},
  ) => [listColumn('chosen', { pages: [page(content, { values: 4 * ROWS, ...options })], ...change }), other];
  const listOf = (repetition: Buffer, definition: Buffer, values: Uint8Array[] = LATENTS) =>
    lists(Buffer.concat([repetition, definition, ...values]));
  const [repetition, definition] = LIST_LEVELS;
  const huge = Buffer.of(0xfe, 0xff, 0xff, 0xff, 0x07, 3); // a run of 2^30 - 1
  const packedRun = (groups: number) =>
    Buffer.from([
      ((2 * groups + 1) % 128) | 0x80,
      ...[7, 14, 21].map((shift) => ((2 * groups + 1) >> shift) | 0x80),
      0x07,
    ]);
  const rle = { encoding: ENCODING.RLE_DICTIONARY };
  const dictionary = page(plain, { values: ROWS, kind: 'dictionary' });
  const indices = (content: Uint8Array) => [
    bytesColumn('chosen', { pages: [dictionary, page(content, { values: ROWS, ...rle })] }),
    other,
  ];
  const cases: [string, HandColumn[], RegExp][] = [
    [
      'a run that would fill the memory',
      listOf(repetition, levels(huge)),
      /a run of 1073741823 values where 12 are left/,
    ],
    ['a run that is too long', listOf(repetition, levels(run(13, 3))), /a run of 13 values where 12 are left/],
    ['packed values without an end', listOf(repetition, levels(packedRun(2 ** 27))), /packed values where 12 are left/],
    ['packed values that are cut', listOf(repetition, levels(Buffer.of(5, 0xff))), /packed values that end early/],
    ['no packed values', listOf(repetition, levels(Buffer.of(1, 1, 1, 1))), /a run of 0 packed values/],
    ['runs that end early', listOf(repetition, levels(run(4, 3))), /a count that does not end/],
    ['a level that is none', listOf(repetition, levels(run(11, 3), run(1, 4))), /the value 4 where there are 4/],
    [
      'levels beyond the page',
      lists(Buffer.concat([Buffer.of(0xff, 0xff, 0xff, 0x7f), ...LATENTS])),
      /ends within its levels/,
    ],
    ['a row too many', listOf(levels(run(1, 0), run(10, 1), run(1, 0)), definition), /2 of its 3 rows/],
    [
      'a first row that is none',
      listOf(levels(run(1, 1), run(3, 0), run(8, 1)), definition),
      /a first row that begins within/,
    ],
    ['a null with its value', listOf(repetition, levels(run(11, 3), run(1, 2))), /values of 44 bytes in 48/],
    ['values that are missing', listOf(repetition, definition, LATENTS.slice(1)), /values of 48 bytes in 32/],
    ['a page beyond the column', bytes(plain, { packed: plain.length + 1 }), /a page of 61 bytes where 60 are left/],
    ['a page that goes back', bytes(plain, { packed: -30 }), /a page with a count of -30/],
    ['a negative size', bytes(plain, { unpacked: -1 }), /a page with a count of -1/],
    [
      '2 GiB of content',
      bytes(plain, { unpacked: 2 ** 31 - 1 }),
      /unpacks to 2147483647 bytes, more than these rows can need/,
    ],
    ['more values than the column', bytes(plain, { values: 4 }), /more than 3 values/],
    ['fewer values than the column', bytes(byteArrays(...LATENTS.slice(1)), { values: 2 }), /2 of its 3 values/],
    [
      'lengths beyond the page',
      bytes(Buffer.concat([plain.subarray(0, -20), Buffer.of(0xff, 0xff, 0, 0), floats(1, 2, 3, 4)])),
      /values of 65579 bytes in 60/,
    ],
    ['bytes left over', bytes(Buffer.concat([plain, Buffer.of(1)])), /values of 60 bytes in 61/],
    ['more zeros than padding', bytes(Buffer.concat([plain, Buffer.alloc(9)])), /values of 60 bytes in 69/],
    ['a checksum', bytes(plain, { crc: 1234 }), /a page whose checksum says that it was changed/],
    [
      'an encoding of another type',
      bytes(plain, { encoding: ENCODING.DELTA_BINARY_PACKED }),
      /type BYTE_ARRAY in the encoding DELTA_BINARY_PACKED/,
    ],
    ['an encoding that is none', bytes(plain, { encoding: 77 }), /encoding number 77/],
    ['indices without a dictionary', bytes(Buffer.of(2, 6, 0), rle), /indices without a dictionary/],
    [
      'an index that is none',
      indices(Buffer.concat([Buffer.of(2), run(2, 0), run(1, 3)])),
      /the value 3 where there are 3/,
    ],
    ['a packed index that is none', indices(Buffer.of(2, 3, 0b00110100, 0)), /the value 3 where there are 3/],
    ['indices of 255 bits', indices(Buffer.of(255, 6, 0)), /values of 255 bits/],
    [
      'indices without an end',
      indices(Buffer.concat([Buffer.of(2), huge])),
      /a run of 1073741823 values where 3 are left/,
    ],
    ['no indices', indices(Buffer.alloc(0)), /indices that end early/],
    [
      'a dictionary behind the values',
      [bytesColumn('chosen', { pages: [page(plain, { values: ROWS }), dictionary] }), other],
      /a dictionary behind/,
    ],
    [
      'a dictionary that lies',
      [bytesColumn('chosen', { pages: [page(plain, { values: 2 ** 30, kind: 'dictionary' })] }), other],
      /1073741824 values in 60 bytes/,
    ],
  ];
  for (const [name, columns, message] of cases) {
    const found = await failure(columns);
    t.match(found, message, name);
    t.match(found, /the column chosen in rows 0 to 2 of /, name);
  }
});

t.test('what unpacks to more than it says', async (t) => {
  const other = bytesColumn('rejected');
  const column = (codec: number, content: Uint8Array, unpacked: number) => [
    bytesColumn('chosen', { codec, pages: [page(content, { values: ROWS, unpacked })] }),
    other,
  ];
  const zeros = Buffer.alloc(2 ** 26);
  const bombs: [string, number, Uint8Array][] = [
    ['gzip', CODEC.GZIP, Buffer.concat(Array.from({ length: 8 }, () => zlib.gzipSync(zeros)))],
    ['Brotli', CODEC.BROTLI, zlib.brotliCompressSync(zeros, { params: { [zlib.constants.BROTLI_PARAM_QUALITY]: 1 } })],
  ];
  const before = process.memoryUsage().rss;
  for (const [name, codec, content] of bombs) {
    t.match(await failure(column(codec, content, 60)), /a page that does not unpack to its 60 bytes/, name);
    t.match(
      await failure(column(codec, content, 2 ** 29)),
      /unpacks to 536870912 bytes, more than these rows can need/,
      name,
    );
  }
  t.ok(process.memoryUsage().rss - before < 2 ** 28, 'and the memory was not taken');
  t.match(await failure(column(CODEC.GZIP, zlib.gzipSync(Buffer.alloc(9)), 10)), /a page of 9 bytes in place of 10/);
  t.match(
    await failure(column(CODEC.GZIP, Buffer.from('none of gzip'), 10)),
    /does not unpack to its 10 bytes: incorrect header/,
  );

  const snappy = (...bytes: number[]) => failure(column(CODEC.SNAPPY, Buffer.of(60, ...bytes), 60));
  // hyparquet takes the length of this literal for -5, and goes back and forth for ever.
  t.match(await snappy(0xfc, 0xfa, 0xff, 0xff, 0xff, ...Buffer.alloc(20)), /a Snappy page whose parts do not fit/);
  t.match(await snappy(0xf0, 59, ...Buffer.alloc(60), 0x05, 0), /refers to what is not there/, 'a copy of distance 0');
  t.match(await snappy(0x00, 7, 0x05, 9), /refers to what is not there/, 'a copy from in front of the page');
  t.match(await snappy(0xf0, 58, ...Buffer.alloc(59)), /with 59 of its 60 bytes/);
  t.match(
    await failure(column(CODEC.SNAPPY, Buffer.of(0xff, 0xff, 0xff, 0xff, 0x0f), 60)),
    /a Snappy page of 4294967295 bytes/,
  );
});

t.test('what unfolds to more than these rows can need', async (t) => {
  const columns = [bytesColumn('chosen'), bytesColumn('rejected')];
  // One entry of 1 MiB, and indices to it that take a byte or two.
  const entry = Buffer.alloc(2 ** 20, 'x');
  const rows = 200;
  const many = (name: string) =>
    bytesColumn(name, {
      pages: [page(byteArrays(...Array.from({ length: rows }, () => LATENTS[0])), { values: rows })],
    });
  const repeated = idColumn([
    page(byteArrays(entry), { values: 1, kind: 'dictionary' }),
    page(Buffer.concat([Buffer.of(1), Buffer.of(0x90, 0x03, 0)]), { values: rows, encoding: ENCODING.RLE_DICTIONARY }),
  ]);
  t.match(
    await failure([many('chosen'), many('rejected'), repeated], { rows }),
    /values that unfold to 209715200 bytes/,
  );

  // 64 Ki rows of one latent of 16 KiB: 1 GiB.
  const constant = (name: string) =>
    bytesColumn(name, {
      values: 2 ** 16,
      pages: [
        page(byteArrays(Buffer.alloc(16_384)), { values: 1, kind: 'dictionary' }),
        page(Buffer.concat([Buffer.of(1), Buffer.of(0x80, 0x80, 0x08, 0)]), {
          values: 2 ** 16,
          encoding: ENCODING.RLE_DICTIONARY,
        }),
      ],
    });
  writeFileSync(file, parquetByHand({ columns: [constant('chosen'), constant('rejected')], rows: 2 ** 16 }));
  const data = await pairsFromParquet(file, { shape: [4096] });
  await t.rejects(data.get(0) as Promise<unknown>, /\d+ bytes for 65536 samples of shape \[4096\]/);

  // Lists of any length: 2^30 values in a run, with the levels to match.
  const endless = Buffer.concat([
    levels(Buffer.concat([run(ROWS, 0), Buffer.of(0xfa, 0xff, 0xff, 0xff, 0x07, 1)])),
    levels(Buffer.of(0x80, 0x80, 0x80, 0x80, 0x08, 3)),
  ]);
  const condition = {
    name: 'condition',
    type: PHYSICAL.INT32,
    lists: 1,
    values: 2 ** 30,
    pages: [page(endless, { values: 2 ** 30 })],
  };
  t.match(await failure([...columns, condition]), /1073741824 values, more than 3 rows can need/);
});

t.test('lists that would end the process', async (t) => {
  // As many bytes as justify the values; healthy lists of this length end hyparquet, too.
  const pages = [page(Buffer.alloc(9_000_000), { values: 2 ** 26 + 1 })];
  const lists = listColumn('chosen', { values: 2 ** 26 + 1, pages });
  t.match(
    await failure([lists, bytesColumn('rejected')]),
    /67108865 values, more than lists can have .*smaller row groups/,
  );
});

t.test('differences and prefixes', async (t) => {
  const columns = [bytesColumn('chosen'), bytesColumn('rejected')];
  /** A block of 128 in 4 parts, with a header for `count` integers. */
  const deltas = (first: number, least: number, widths: number[], packed: number[], header = [0x80, 0x01, 4, ROWS]) =>
    Buffer.of(...header, 2 * first, ...(least < 0 ? [-2 * least - 1] : [2 * least]), ...widths, ...packed);
  const ids = async (encoding: number, content: Buffer) => {
    const id = idColumn([page(content, { values: ROWS, encoding })]);
    try {
      const data = await open([...columns, id]);
      return await Promise.all([0, 1, 2].map(async (row) => (await data.get(row)).id));
    } catch (error) {
      return (error as Error).message;
    }
  };
  const [lengthsOnly, prefixed] = [ENCODING.DELTA_LENGTH_BYTE_ARRAY, ENCODING.DELTA_BYTE_ARRAY];
  const ones = deltas(1, 0, [0, 0, 0, 0], []);
  const text = (value: string) => Buffer.from(value);
  t.same(await ids(lengthsOnly, Buffer.concat([ones, text('abc')])), ['a', 'b', 'c']);
  // 0, 1, 2 bytes of the one before: differences of 1.
  const prefixes = deltas(0, 1, [0, 0, 0, 0], []);
  t.same(await ids(prefixed, Buffer.concat([prefixes, ones, text('abc')])), ['a', 'ab', 'abc']);
  // Differences of 2 bits above -1: 1 + (-1 + 2), 2 + (-1 + 3).
  const packed = [0b1110, ...Buffer.alloc(7)];
  t.same(await ids(lengthsOnly, Buffer.concat([deltas(1, -1, [2, 0, 0, 0], packed), text('abbcccc')])), [
    'a',
    'bb',
    'cccc',
  ]);

  const cases: [string, number, Buffer, RegExp][] = [
    ['lengths beyond the page', lengthsOnly, Buffer.concat([ones, text('ab')]), /values of 3 bytes in 2/],
    [
      'negative lengths',
      lengthsOnly,
      Buffer.concat([deltas(1, -1, [0, 0, 0, 0], []), text('a')]),
      /a value of -1 bytes/,
    ],
    [
      'blocks that go back',
      lengthsOnly,
      deltas(1, 0, [0, 0, 0, 0], [], [0x00, 4, ROWS]),
      /blocks of 0 differences in 4 parts/,
    ],
    ['no parts', lengthsOnly, deltas(1, 0, [], [], [0x80, 0x01, 0, ROWS]), /blocks of 128 differences in 0 parts/],
    [
      'other numbers of values',
      lengthsOnly,
      deltas(1, 0, [0, 0, 0, 0], [], [0x80, 0x01, 4, 9]),
      /9 differences where 3 values are/,
    ],
    [
      'widths beyond a number',
      lengthsOnly,
      deltas(1, 0, [200, 0, 0, 0], [...Buffer.alloc(900)]),
      /differences of 200 bits/,
    ],
    ['packed differences that are cut', lengthsOnly, deltas(1, 0, [8, 0, 0, 0], [0, 0]), /differences that end early/],
    [
      'a prefix of more than there is',
      prefixed,
      Buffer.concat([deltas(1, 0, [0, 0, 0, 0], []), ones, text('abc')]),
      /shares 1 bytes with one of 0/,
    ],
    [
      'prefixes that add up',
      prefixed,
      Buffer.concat([deltas(0, 2 ** 5, [0, 0, 0, 0], []), ones, text('abc')]),
      /shares 32 bytes with one of 1/,
    ],
  ];
  for (const [name, encoding, content, message] of cases) t.match(await ids(encoding, content), message, name);
});

t.test('values that are not what their column says concern their rows only', async (t) => {
  const columns = [bytesColumn('chosen'), bytesColumn('rejected')];
  const get = async (extra: HandColumn, row: number) => {
    const data = await open([...columns, extra]);
    return Promise.resolve(data.get(row)).then(
      (pair) => pair.condition ?? pair.id,
      (error: Error) => error.message,
    );
  };
  const id = idColumn([page(byteArrays(Buffer.from('a'), Buffer.of(0xff), Buffer.from('c')), { values: ROWS })]);
  t.equal(await get(id, 0), 'a');
  t.match(await get(id, 1), /id in row 1 of .*x\.parquet to be readable, received "text that is not UTF-8"/);
  t.equal(await get(id, 2), 'c');
  const deep = Buffer.from('['.repeat(5000) + ']'.repeat(5000));
  const json = (...texts: Buffer[]) => ({
    ...idColumn([page(byteArrays(...texts), { values: ROWS })]),
    name: 'condition',
    converted: 19,
  });
  const conditions = json(Buffer.from('{"a":[1]}'), Buffer.from('{"a":'), deep);
  t.same(await get(conditions, 0), { a: [1] });
  t.match(await get(conditions, 1), /condition in row 1 of .* to be readable, received "JSON with an error/);
  t.match(await get(conditions, 2), /condition in row 2 of .* nested at most 256 deep/);
  const longs = Buffer.from(BigInt64Array.of(7n, 2n ** 53n + 1n, -7n).buffer);
  const integers = { name: 'condition', type: PHYSICAL.INT64, pages: [page(longs, { values: ROWS })] };
  t.equal(await get(integers, 2), -7);
  t.match(await get(integers, 1), /an integer that a number holds exactly, received 9007199254740993n/);
  const dates = { ...integers, converted: 9 };
  t.match(await get(dates, 1), /to be a date, received "one out of range"/);
});

// From lib/ files are read in the thread of the caller: these are about dist/.
const DIST = new URL('../../dist/trainer/', import.meta.url);

t.test('a thread that does not come back is stopped, and the next one reads on', async (t) => {
  const { readParquetFooter } = await import(new URL('parquet/reader.js', DIST).href);
  // hyparquet computes with all digits of a decimal, also of those in statistics: at this length for many seconds.
  const digits = Buffer.alloc(2 ** 20, 0x7f);
  const meta = { 12: struct({ 1: [8, [...varint(digits.length), ...digits]] }) };
  const slow = bytesColumn('chosen', { type: PHYSICAL.FIXED, typeLength: 16, converted: 5, meta });
  // Without the type its statistics are bytes.
  const fast = { ...slow, converted: undefined };
  const write = (column: HandColumn) => {
    writeFileSync(file, parquetByHand({ columns: [column, bytesColumn('rejected')], rows: ROWS }));
  };
  write(slow);
  const stopped = readParquetFooter(file, {}, 1);
  const waiting = readParquetFooter(join(t.testdirName, 'none'), {});
  waiting.catch(() => {});
  await t.rejects(stopped, { code: 'ERR_SDPO_DATA', message: /x\.parquet to be read .*, received no end within 1 s/ });
  await t.rejects(waiting, { code: 'ERR_SDPO_DATA', message: /no such file/ }, 'what waited has its turn');
  write(fast);
  t.equal((await readParquetFooter(file, {})).groups[0].rows, ROWS);
});

t.test('a row group that does not fit into memory is an error, not the end of the process', async (t) => {
  const rows = 400;
  const size = 20_000;
  const lists = (name: string): HandColumn => ({
    ...{ name, type: PHYSICAL.FLOAT, lists: 1, values: rows * size },
    pages: Array.from({ length: rows }, () => {
      const repetition = levels(Buffer.concat([run(1, 0), run(size - 1, 1)]));
      return page(Buffer.concat([repetition, levels(run(size, 3)), Buffer.alloc(4 * size)]), { values: size });
    }),
  });
  const large = join(t.testdir(), 'large.parquet');
  writeFileSync(large, parquetByHand({ columns: [lists('chosen'), lists('rejected')], rows }));
  writeFileSync(file, parquetByHand({ columns: [bytesColumn('chosen'), bytesColumn('rejected')], rows: ROWS }));
  const program = `
    import { pairsFromParquet } from ${JSON.stringify(new URL('index.js', DIST).href)};
    const large = await pairsFromParquet(${JSON.stringify(large)}, { shape: [${size}] });
    await large.get(0).catch(({ code, message }) => console.log(code, message));
    const small = await pairsFromParquet(${JSON.stringify(file)}, { shape: [4] });
    const { id, chosen } = await small.get(1);
    console.log('then', id, ...chosen);
  `;
  const { NODE_OPTIONS: _, ...env } = process.env;
  const args = ['--max-old-space-size=32', '--input-type=module', '-e', program];
  const { stdout, stderr, status } = spawnSync(process.execPath, args, { encoding: 'utf8', env });
  t.equal(status, 0, stderr);
  t.match(
    stdout,
    /^ERR_SDPO_DATA Expected .*large\.parquet to be read .* more than fits into its memory: write smaller row groups$/m,
  );
  t.match(stdout, /^then x\.parquet#1 5 6 7 8$/m, 'and the process ended when there was nothing left to do');
});

t.test('nested lists of the lengths of the shape', async (t) => {
  const matrix = (name: string, repetition: Buffer): HandColumn => ({
    ...{ name, type: PHYSICAL.FLOAT, lists: 2, values: 8 },
    pages: [
      page(Buffer.concat([levels(repetition), levels(run(8, 5)), floats(1, 2, 3, 4, 5, 6, 7, 8)]), { values: 8 }),
    ],
  });
  // Two rows of two lists of two, then of one list of three and one of one.
  const even = Buffer.concat(Array.from({ length: 2 }, () => [run(1, 0), run(1, 2), run(1, 1), run(1, 2)]).flat());
  const uneven = Buffer.concat([run(1, 0), run(2, 2), run(1, 1), run(1, 0), run(1, 2), run(1, 1), run(1, 2)]);
  const read = async (shape: number[], first: Buffer) => {
    writeFileSync(file, parquetByHand({ columns: [matrix('chosen', first), matrix('rejected', even)], rows: 2 }));
    return pairsFromParquet(file, { shape });
  };
  const data = await read([2, 2], even);
  t.same((await data.get(0)).chosen, Float32Array.of(1, 2, 3, 4));
  t.same((await data.get(1)).rejected, Float32Array.of(5, 6, 7, 8));
  const bad = await read([2, 2], uneven);
  await t.rejects(
    bad.get(0) as Promise<unknown>,
    /\[0\] of chosen in row 0 of .*x\.parquet to be of length 2, received Array of length 3/,
  );
  t.same((await bad.get(1)).chosen, Float32Array.of(5, 6, 7, 8), 'and hinders no other row');
  await t.rejects(
    (await read([4], even)).get(0) as Promise<unknown>,
    /chosen in row 0 of .* a list of 4, received Array of length 2/,
  );
  await t.rejects(
    (await read([2, 1, 2], even)).get(0) as Promise<unknown>,
    /\[0\] of chosen in row 0 of .* a list of 1/,
  );
  await t.rejects((await read([1, 4], even)).get(0) as Promise<unknown>, /a list of 1, received Array of length 2/);
});
