/** The safetensors reader and writer: bytes by hand, round trips of every dtype, and every way in which a file can be damaged. */

import fc from 'fast-check';
import t from 'tap';
import { decodeSafetensors, encodeSafetensors, type SafetensorsEntry } from '../../lib/tensor/safetensors.js';

/** A file from a header text and data bytes, without going through the writer. */
function file(header: string, data: readonly number[] = [], headerLength?: bigint): Uint8Array {
  const json = new TextEncoder().encode(header);
  const bytes = new Uint8Array(8 + json.length + data.length);
  new DataView(bytes.buffer).setBigUint64(0, headerLength ?? BigInt(json.length), true);
  bytes.set(json, 8);
  bytes.set(data, 8 + json.length);
  return bytes;
}

t.test('reads a file written by hand', async (t) => {
  const header =
    '{"__metadata__":{"format":"pt"},"b":{"dtype":"U8","shape":[3],"data_offsets":[8,11]},' +
    '"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}';
  // 1.0 and -2.0 in little-endian float32, then three bytes.
  const { tensors, metadata } = decodeSafetensors(file(header, [0, 0, 0x80, 0x3f, 0, 0, 0, 0xc0, 7, 8, 9]));
  t.same(metadata, { format: 'pt' });
  t.same(Object.keys(tensors), ['b', 'a'], 'in the order of the header');
  t.same(tensors.a, { dtype: 'float32', shape: [1, 2], data: Float32Array.of(1, -2) });
  t.same(tensors.b, { dtype: 'uint8', shape: [3], data: Uint8Array.of(7, 8, 9) });
});

t.test('writes the documented bytes', async (t) => {
  const bytes = encodeSafetensors({ x: { dtype: 'float32', shape: [1], data: Float32Array.of(1) } }, { k: 'v' });
  const json = '{"__metadata__":{"k":"v"},"x":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}';
  const padded = json.padEnd(Math.ceil(json.length / 8) * 8);
  t.same(bytes, file(padded, [0, 0, 0x80, 0x3f]));
  t.same(encodeSafetensors({}), file('{}      '), 'a file without tensors');
});

t.test('keeps every dtype, aligned to its element size', async (t) => {
  const tensors: Record<string, SafetensorsEntry> = {
    u8: { dtype: 'uint8', shape: [3], data: Uint8Array.of(0, 1, 255) },
    i8: { dtype: 'int8', shape: [1], data: Int8Array.of(-128) },
    e4m3: { dtype: 'float8_e4m3', shape: [2], data: Uint8Array.of(0x38, 0xb8) },
    e5m2: { dtype: 'float8_e5m2', shape: [1], data: Uint8Array.of(0x3c) },
    e8m0: { dtype: 'float8_e8m0', shape: [1], data: Uint8Array.of(0x7f) },
    bool: { dtype: 'bool', shape: [2], data: Uint8Array.of(0, 1) },
    i16: { dtype: 'int16', shape: [1], data: Int16Array.of(-32768) },
    u16: { dtype: 'uint16', shape: [1], data: Uint16Array.of(65535) },
    f16: { dtype: 'float16', shape: [2], data: Uint16Array.of(0x3c00, 0xc000) },
    bf16: { dtype: 'bfloat16', shape: [1], data: Uint16Array.of(0x3f80) },
    i32: { dtype: 'int32', shape: [1], data: Int32Array.of(-(2 ** 31)) },
    u32: { dtype: 'uint32', shape: [1], data: Uint32Array.of(2 ** 32 - 1) },
    i64: { dtype: 'int64', shape: [1], data: BigInt64Array.of(-(2n ** 63n)) },
    u64: { dtype: 'uint64', shape: [1], data: BigUint64Array.of(2n ** 64n - 1n) },
    f32: { dtype: 'float32', shape: [2, 1], data: Float32Array.of(Number.NaN, -0) },
    f64: { dtype: 'float64', shape: [], data: Float64Array.of(Math.PI) },
    empty: { dtype: 'float32', shape: [4, 0], data: new Float32Array() },
  };
  const bytes = encodeSafetensors(tensors);
  const read = decodeSafetensors(bytes).tensors;
  t.same(new Set(Object.keys(read)), new Set(Object.keys(tensors)));
  for (const [name, entry] of Object.entries(tensors)) {
    t.same(read[name], entry, name);
    t.equal(read[name].data.buffer, bytes.buffer, `${name} is a view, so it was aligned`);
  }
  const reversed = Object.fromEntries(Object.entries(tensors).reverse());
  t.same(encodeSafetensors(reversed), bytes, 'the bytes do not depend on the order of the names');
});

t.test('reads from any position in a larger buffer', async (t) => {
  const bytes = encodeSafetensors({ x: { dtype: 'float64', shape: [2], data: Float64Array.of(1.5, -2.5) } });
  for (let shift = 0; shift < 8; shift++) {
    const moved = new Uint8Array(bytes.length + 8);
    moved.set(bytes, shift);
    const { x } = decodeSafetensors(moved.subarray(shift, shift + bytes.length)).tensors;
    t.same(x.data, Float64Array.of(1.5, -2.5), `shifted by ${shift}`);
  }
});

t.test('round trips any names, shapes and values', async () => {
  const entry = fc
    .array(fc.integer({ min: 0, max: 4 }), { maxLength: 3 })
    .chain((shape) =>
      fc
        .float32Array({ minLength: shape.reduce((a, b) => a * b, 1), maxLength: shape.reduce((a, b) => a * b, 1) })
        .map((data): SafetensorsEntry => ({ dtype: 'float32', shape, data })),
    );
  const name = fc
    .oneof(fc.string({ unit: 'binary' }), fc.constantFrom('__proto__', 'constructor', ''))
    .filter((text) => text !== '__metadata__' && Buffer.from(text).toString() === text);
  fc.assert(
    fc.property(fc.array(fc.tuple(name, entry), { maxLength: 5 }), (list) => {
      const tensors = Object.fromEntries(list);
      const read = decodeSafetensors(encodeSafetensors(tensors)).tensors;
      const names = Object.keys(tensors);
      return (
        Object.keys(read).length === names.length &&
        names.every((key) => {
          const [before, after] = [tensors[key], Object.getOwnPropertyDescriptor(read, key)?.value as SafetensorsEntry];
          const same = (before.data as Float32Array).every((value, i) => Object.is(value, after.data[i]));
          return String(before.shape) === String(after.shape) && before.data.length === after.data.length && same;
        })
      );
    }),
  );
});

t.test('refuses a damaged file and says where', async (t) => {
  const one = (field: object) => JSON.stringify({ x: { dtype: 'U8', shape: [2], data_offsets: [0, 2], ...field } });
  const two = (first: number[], second: number[]) =>
    JSON.stringify({
      x: { dtype: 'U8', shape: [2], data_offsets: first },
      y: { dtype: 'U8', shape: [2], data_offsets: second },
    });
  const FIELD = '{"dtype":"U8","shape":[2],"data_offsets":[0,2]}';
  const cases: [string, Uint8Array, RegExp][] = [
    ['no bytes', new Uint8Array(), /at least 8 bytes, received Uint8Array of length 0/],
    ['a cut header', file('{}', [], 3n), /the header length .* at most 2 bytes, received 3/],
    ['an absurd length', file('{}', [], 2n ** 63n), /the header length/],
    ['no JSON', file('{"x"'), /the header .* JSON in UTF-8/],
    ['not UTF-8', Uint8Array.of(3, 0, 0, 0, 0, 0, 0, 0, 0x22, 0xff, 0x22), /the header .* JSON in UTF-8/],
    ['an array', file('[]'), /a JSON object .* received Array/],
    ['a leading space', file(' {}'), /starts at byte 8/],
    ['a field that is no object', file('{"x":1}'), /header field "x" .* an object with dtype/],
    ['an unknown dtype', file(one({ dtype: 'F4' }), [1, 2]), /"x"\.dtype .* one of F64, F32.* received "F4"/],
    ['a dtype that is no name', file(one({ dtype: 8 }), [1, 2]), /"x"\.dtype .* the name of a dtype, received 8/],
    ['an unknown dtype, backward', file(one({ dtype: 'F4', data_offsets: [2, 0] }), [1, 2]), /0 bytes apart for F4/],
    ['a negative size', file(one({ shape: [-2] }), [1, 2]), /"x"\.shape .* received \[-2\]/],
    ['a product beyond 2^53', file(one({ shape: [2 ** 40, 2 ** 40] }), [1, 2]), /"x"\.shape/],
    ['one offset', file(one({ data_offsets: [0] }), [1, 2]), /"x"\.data_offsets .* two integers/],
    ['a wrong length', file(one({ shape: [3] }), [1, 2]), /3 bytes apart for U8 \[3\], received \[0, 2\]/],
    ['backward offsets', file(one({ data_offsets: [2, 0] }), [1, 2]), /2 bytes apart/],
    ['missing data', file(one({}), [1]), /the tensor data .* 2 bytes long, received 1 bytes/],
    ['data left over', file(one({}), [1, 2, 3]), /the tensor data .* 2 bytes long, received 3 bytes/],
    ['a hole', file(two([0, 2], [3, 5]), [1, 2, 3, 4, 5]), /"y"\.data_offsets .* consecutive from 2/],
    ['an overlap', file(two([0, 2], [1, 3]), [1, 2, 3]), /"y"\.data_offsets .* consecutive from 2/],
    ['metadata that are no strings', file('{"__metadata__":{"a":1}}'), /__metadata__\["a"\] .* a string, received 1/],
    ['a tensor twice', file(`{"a":${FIELD},"a":${FIELD}}`, [1, 2]), /names everything once.* received "a" twice/],
    ['a tensor twice, spelt differently', file(`{"a":${FIELD},"\\u0061" :${FIELD}}`, [1, 2]), /received "a" twice/],
    ['a shape twice', file(`{"a":{"shape":[1],${FIELD.slice(1)}}`, [1, 2]), /received "shape" twice/],
    ['metadata twice', file('{"__metadata__":{"k":"v","k":"v"}}'), /received "k" twice/],
    ['endless nesting', file(`${'{"x":'.repeat(300)}1${'}'.repeat(300)}`), /nested at most 256 deep, received more/],
    ['metadata that are no object', file('{"__metadata__":[]}'), /__metadata__ .* an object of strings/],
  ];
  for (const [name, bytes, message] of cases) {
    t.throws(() => decodeSafetensors(bytes), { name: 'RangeError', code: 'ERR_SDPO_INVALID_ARG_VALUE', message }, name);
  }
  const type = { name: 'TypeError', code: 'ERR_SDPO_INVALID_ARG_TYPE' };
  t.throws(() => decodeSafetensors('{}' as never), { ...type, message: /bytes to be a Uint8Array, received "\{\}"/ });
});

t.test('says what a file is that is none of safetensors', async (t) => {
  const text = (content: string) => Buffer.from(content, 'latin1');
  const cases: [string, Uint8Array, RegExp][] = [
    [
      'a Git LFS pointer',
      text('version https://git-lfs.github.com/spec/v1\noid sha256:0\n'),
      /Git LFS pointer.*git lfs pull/,
    ],
    ['a page', text('<!DOCTYPE html><html><head></head></html>'), /an HTML or XML page/],
    ['a page after a byte order mark', text('\xef\xbb\xbf\n<html lang="en"></html>'), /an HTML or XML page/],
    ['a zip', text('PK\x03\x04\x14\0\0\0\0\0\0\0'), /a zip archive/],
    [
      'gzip, whose first bytes are a small length',
      text(`\x1f\x8b\x08\0\0\0\0\0${'\0'.repeat(600_000)}`),
      /a gzip archive/,
    ],
    ['Parquet', text('PAR1\x15\x04\x15\x10\x15'), /a Parquet file/],
    ['JSON', text('{"weight_map": {}}'), /received JSON/],
    ['a length that no number holds', text('\x01\0\0\0\0\0\0\x20zzzz'), /received 2305843009213693953/],
  ];
  for (const [name, bytes, message] of cases) {
    t.throws(() => decodeSafetensors(bytes), { code: 'ERR_SDPO_INVALID_ARG_VALUE', message }, name);
  }
  // A header of 60 bytes begins as a page does.
  const like = file(JSON.stringify({ x: { dtype: 'U8', shape: [0], data_offsets: [0, 0] } }).padEnd(60));
  t.equal(like[0], '<'.charCodeAt(0));
  t.same(Object.keys(decodeSafetensors(like).tensors), ['x']);
});

t.test('refuses tensors that do not fit together', async (t) => {
  const good: SafetensorsEntry = { dtype: 'float32', shape: [2], data: Float32Array.of(1, 2) };
  const encode = (fields: object, name = 'x') =>
    encodeSafetensors({ [name]: { ...good, ...fields } as SafetensorsEntry });
  const value = { code: 'ERR_SDPO_INVALID_ARG_VALUE' };
  const type = { code: 'ERR_SDPO_INVALID_ARG_TYPE' };
  t.throws(() => encode({ dtype: 'complex64' }), { ...value, message: /tensors\["x"\]\.dtype to be one of 'float64'/ });
  t.throws(() => encode({ shape: [1.5] }), { ...value, message: /tensors\["x"\]\.shape/ });
  t.throws(() => encode({ shape: [3] }), {
    code: 'ERR_SDPO_INVALID_LENGTH',
    message: /tensors\["x"\]\.data to be of length 3 for shape \[3\], received Float32Array of length 2/,
  });
  t.throws(() => encode({ data: Float64Array.of(1, 2) }), { ...type, message: /a Float32Array for float32/ });
  t.throws(() => encode({ dtype: 'bfloat16' }), { ...type, message: /a Uint16Array for bfloat16/ });
  t.throws(() => encode({}, '__metadata__'), { ...value, message: /other than the reserved __metadata__/ });
  t.throws(() => encodeSafetensors({ x: null as never }), { ...type, message: /an object with dtype, shape and data/ });
  t.throws(() => encodeSafetensors(null as never), { ...type, message: /tensors to be an object of named tensors/ });
  t.throws(() => encodeSafetensors([] as never), { ...type, message: /tensors to be an object of named tensors/ });
  for (const metadata of [null, 'k', ['k']]) {
    t.throws(() => encodeSafetensors({}, metadata as never), {
      ...type,
      message: /metadata to be an object of strings/,
    });
  }
  t.throws(() => encodeSafetensors({}, { k: 1 as never }), { ...type, message: /metadata\["k"\] to be a string/ });
});
