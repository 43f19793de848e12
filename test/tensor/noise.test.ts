/** Philox4x32-10 and the normals made of it, against published vectors and an implementation of its own in big integers. */

import t from 'tap';
import { createRandom, noise, randomBits, type Seed, Tensor } from '../../lib/index.js';
import { dtypes, encode } from '../helpers/dtypes.js';

const word = (1n << 32n) - 1n;

/** Ten rounds as Salmon et al. (SC 2011) define them; counter and key are lists of 32-bit words, the lowest first. */
function philox(counter: readonly bigint[], key: readonly bigint[]): number[] {
  let [c0, c1, c2, c3] = counter;
  let [k0, k1] = key;
  for (let round = 0; round < 10; round++) {
    const left = 0xd2511f53n * c0;
    const right = 0xcd9e8d57n * c2;
    [c0, c1, c2, c3] = [(right >> 32n) ^ c1 ^ k0, right & word, (left >> 32n) ^ c3 ^ k1, left & word];
    k0 = (k0 + 0x9e3779b9n) & word;
    k1 = (k1 + 0xbb67ae85n) & word;
  }
  return [c0, c1, c2, c3].map(Number);
}

/** The words of the stream of `seed`: the block counter is the position divided by four, the key is the seed. */
function expectedBits(seed: bigint, offset: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => {
    const position = BigInt(offset) + BigInt(i);
    const block = position >> 2n;
    return philox([block & word, block >> 32n, 0n, 0n], [seed & word, seed >> 32n])[Number(position & 3n)];
  });
}

/** Box-Muller in float64 over pairs of words. */
function expectedNormals(seed: bigint, offset: number, count: number): number[] {
  const start = offset - (offset % 2);
  const words = expectedBits(seed, start, count + 3);
  const normals = words.map((_, i) => {
    const [x0, x1] = [words[i - (i % 2)], words[i - (i % 2) + 1]];
    const radius = Math.sqrt(-2 * Math.log((x0 + 0.5) / 2 ** 32));
    const angle = 2 * Math.PI * ((x1 + 0.5) / 2 ** 32);
    return radius * (i % 2 === 0 ? Math.cos(angle) : Math.sin(angle));
  });
  return normals.slice(offset - start, offset - start + count);
}

const bits = (seed: Seed, offset: number, count: number) =>
  Array.from(randomBits(seed, offset, new Uint32Array(count)));
const hex = (words: readonly number[]) => words.map((value) => value.toString(16).padStart(8, '0')).join(' ');

t.test('known answers', async (t) => {
  // Random123, kat_vectors: "philox4x32 10 counter key -> result".
  const ones = word;
  const pi = [0x243f6a88n, 0x85a308d3n, 0x13198a2en, 0x03707344n];
  t.equal(hex(philox([0n, 0n, 0n, 0n], [0n, 0n])), '6627e8d5 e169c58d bc57ac4c 9b00dbd8', 'the reference of this test');
  t.equal(hex(philox([ones, ones, ones, ones], [ones, ones])), '408f276d 41c83b0e a20bc7c6 6d5451fd');
  t.equal(hex(philox(pi, [0xa4093822n, 0x299f31d0n])), 'd16cfe09 94fdcceb 5001e420 24126ea1');
  t.equal(hex(bits(0, 0, 4)), '6627e8d5 e169c58d bc57ac4c 9b00dbd8', 'the library');
});

t.test('words of any seed and position', async (t) => {
  const seeds = [0n, 1n, 0xffffffffn, 1n << 32n, 0x299f31d0a4093822n, (1n << 64n) - 1n];
  const offsets = [
    0,
    1,
    2,
    3,
    4,
    5,
    2 ** 32 - 3,
    2 ** 32,
    2 ** 34 - 2,
    2 ** 34 + 1,
    2 ** 40 + 3,
    Number.MAX_SAFE_INTEGER - 20,
  ];
  for (const seed of seeds) {
    for (const offset of offsets)
      t.same(bits(seed, offset, 11), expectedBits(seed, offset, 11), `seed ${seed} from ${offset}`);
  }
  for (const seed of [0, 7, 2 ** 32 + 5, Number.MAX_SAFE_INTEGER]) {
    t.same(bits(seed, 0, 8), bits(BigInt(seed), 0, 8), `${seed} as a number and as a bigint`);
  }
});

t.test('a stream is the same however it is cut', async (t) => {
  // Longer than a tile of 4096 and than the eight tiles that a thread takes at a time.
  const count = 8 * 4096 + 77;
  const whole = noise(42, 5, new Float64Array(count));
  for (const cut of [1, 2, 3, 4, 5, 4095, 4096, 4097, 32768, 32769]) {
    const parts = new Float64Array(count);
    for (let start = 0; start < count; start += cut) {
      if (cut < 6 && start > 6 * cut && start < count - 6 * cut) continue;
      noise(42, 5 + start, parts.subarray(start, start + cut));
    }
    const bad = parts.findIndex((value, i) => value !== whole[i] && value !== 0);
    t.equal(bad, -1, `pieces of ${cut}`);
  }
  t.same(noise(42, 5, new Float64Array(0)), new Float64Array(0), 'nothing at all');
});

t.test('normals are those of Box-Muller', async (t) => {
  // Two correctly rounded logarithms or cosines differ by a unit in the last place; angle and radius carry it on.
  const tolerance = 16 * Number.EPSILON;
  for (const [seed, offset] of [
    [0n, 0],
    [9n, 1],
    [1n << 63n, 2 ** 33 + 3],
  ] as const) {
    const actual = noise(seed, offset, new Float64Array(1001));
    const expected = expectedNormals(seed, offset, 1001);
    const worst = actual.reduce((most, value, i) => Math.max(most, Math.abs(value - expected[i])), 0);
    t.ok(worst <= tolerance, `seed ${seed} from ${offset}`, { worst });
  }
});

t.test('every dtype holds the float64 normals, rounded once', async (t) => {
  const exact = noise(3, 1, new Float64Array(5001));
  t.same(noise(3, 1, new Float32Array(5001)), encode('float32', exact), 'Float32Array');
  for (const dtype of dtypes) {
    const tensor = Tensor.empty([3, 1667], { dtype });
    t.equal(noise(3, 1, tensor), tensor, 'the tensor itself is returned');
    t.same(tensor.toHost(), encode(dtype, exact), dtype);
  }
});

t.test('normals have the moments of normals', async (t) => {
  // Standard errors of the mean of x, x², x³ and x⁴ of n normals: sqrt(var / n). Five of them: one failure in 1.7 million streams.
  const n = 2 ** 20;
  const x = noise(2024, 0, new Float64Array(n));
  const expected = [0, 1, 0, 3];
  const variance = [1, 2, 15, 96];
  for (let power = 1; power <= 4; power++) {
    const mean = x.reduce((sum, value) => sum + value ** power, 0) / n;
    const bound = 5 * Math.sqrt(variance[power - 1] / n);
    t.ok(Math.abs(mean - expected[power - 1]) < bound, `mean of x^${power}`, { mean, bound });
  }
  const neighbours = x.reduce((sum, value, i) => sum + value * x[(i + 1) % n], 0) / n;
  t.ok(Math.abs(neighbours) < 5 / Math.sqrt(n), 'neighbours are not correlated', { neighbours });
  const other = noise(2025, 0, new Float64Array(n));
  const streams = x.reduce((sum, value, i) => sum + value * other[i], 0) / n;
  t.ok(Math.abs(streams) < 5 / Math.sqrt(n), 'nor are the streams of neighbouring seeds', { streams });
  t.ok(x.every(Number.isFinite), 'all are finite');
});

t.test('createRandom is uniform on [0, 1) and made of words that noise does not use', async (t) => {
  const random = createRandom(11);
  const n = 5000;
  const drawn = Array.from({ length: n }, () => random());
  t.ok(drawn.every((value) => value >= 0 && value < 1));
  const words = bits(11, 2 ** 52, 2 * n);
  const expected = drawn.map((_, i) => ((words[2 * i] >>> 5) * 2 ** 26 + (words[2 * i + 1] >>> 6)) / 2 ** 53);
  t.same(drawn, expected, '53 bits of two words each');
  const mean = drawn.reduce((sum, value) => sum + value, 0) / n;
  t.ok(Math.abs(mean - 0.5) < 5 / Math.sqrt(12 * n), 'mean', { mean });
});

t.test('createRandom goes on from a position', async (t) => {
  const random = createRandom(11n);
  t.equal(random.position, 0);
  const drawn = Array.from({ length: 600 }, () => random());
  t.equal(random.position, 600);
  for (const position of [0, 1, 255, 256, 257, 599]) {
    const resumed = createRandom(11, position);
    t.equal(resumed.position, position);
    t.same(
      Array.from({ length: 600 - position }, () => resumed()),
      drawn.slice(position),
      `from ${position}`,
    );
  }
  t.throws(() => Object.assign(random, { position: 3 }), TypeError, 'the position is read only');
  const far = createRandom(1, 2 ** 40 + 1);
  const [high, low] = expectedBits(1n, 2 ** 52 + 2 ** 41 + 2, 2);
  t.equal(far(), ((high >>> 5) * 2 ** 26 + (low >>> 6)) / 2 ** 53, 'beyond 2^32');
});
