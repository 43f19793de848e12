/** Noise by counter: any element of a stream can be made again from its seed and its position, on every backend. */

import { typedArray } from '../native/arrays.js';
import { binding } from '../native/binding.js';
import { checkInteger, checkOptions, failType, failValue } from '../native/validate.js';
import { locationOf } from './device.js';
import { enlist } from './device-memory.js';
import { dtypeIndex, type HostArray } from './dtypes.js';
import type { ElementwiseOptions } from './elementwise.js';
import { isFlat, plainLatents } from './operand.js';
import { checkStream, laneOf } from './stream.js';
import { isContiguous, placeOf, Tensor } from './tensor.js';

/** A 64-bit seed: a safe integer >= 0, or a bigint below 2^64. */
export type Seed = number | bigint;

function checkSeed(seed: unknown): [low: number, high: number] {
  if (typeof seed === 'bigint') {
    if (seed < 0n || seed >= 1n << 64n) failValue('seed', 'an integer in [0, 2^64)', seed);
    return [Number(seed & 0xffffffffn), Number(seed >> 32n)];
  }
  if (typeof seed !== 'number') failType('seed', 'an integer in [0, 2^64)', seed);
  if (!Number.isSafeInteger(seed) || seed < 0) failValue('seed', 'a safe integer >= 0, or a bigint', seed);
  return [seed >>> 0, Math.floor(seed / 2 ** 32)];
}

function checkPosition(argument: string, value: unknown): number {
  if (typeof value !== 'number') failType(argument, 'a safe integer >= 0', value);
  if (!Number.isSafeInteger(value) || value < 0) failValue(argument, 'a safe integer >= 0', value);
  return value;
}

/**
 * Fills `out` with standard normals: element i is element `offset + i` of the stream of `seed`. Philox4x32-10 (Salmon et al., SC 2011) by
 * counter, Box-Muller in float64, rounded once to the dtype of `out`. The integers behind the normals are the same on every backend; the
 * normals agree to a few units in the last place of float64 before rounding. On a device the work is put on `options.stream` and not waited for.
 * @param given `out`, which is returned
 */
export function noise<T extends Float32Array | Float64Array | Tensor>(
  seed: Seed,
  offset: number,
  given: T,
  options: ElementwiseOptions = {},
): T {
  const [low, high] = checkSeed(seed);
  const first = checkPosition('offset', offset);
  options = checkOptions('options', options, ['stream']);
  const out = plainLatents(given);
  const lane = laneOf(checkStream('options.stream', options.stream, out instanceof Tensor ? out.device : 'cpu'));
  let data: HostArray;
  let dtype: number;
  if (out instanceof Tensor) {
    const place = placeOf(out, 'out');
    dtype = dtypeIndex(out.dtype);
    if ('memory' in place) {
      if (!isContiguous(out, place)) failValue('out', 'a contiguous Tensor', out);
      enlist(lane, [{ memory: place.memory, writes: true }]);
      binding.noise(low, high, first, out.pointer, dtype, false, 0, locationOf(out.device), lane.handle, out.size);
      return given;
    }
    data = out.data;
  } else if (isFlat(out)) {
    data = out;
    dtype = dtypeIndex(out instanceof Float32Array ? 'float32' : 'float64');
  } else {
    failType('out', 'a Float32Array, a Float64Array or a contiguous Tensor', out);
  }
  binding.noise(low, high, first, data, dtype, false, 0);
  return given;
}

/** Fills `out` with the 32-bit words `offset`, `offset + 1`, … of the stream of `seed`, the integers that `noise` is made of. */
export function randomBits(seed: Seed, offset: number, given: Uint32Array): Uint32Array {
  const [low, high] = checkSeed(seed);
  const first = checkPosition('offset', offset);
  const out = typedArray(given);
  if (!(out instanceof Uint32Array)) failType('out', 'a Uint32Array', given);
  binding.noise(low, high, first, out, 0, true, 0);
  return given;
}

/** A generator of uniform numbers whose position can be read and restored, for exact resumption. */
export interface Random {
  /** The next number in [0, 1), with 53 random bits. */
  (): number;
  /** Numbers drawn so far. */
  readonly position: number;
}

const BLOCK = 256;

/** Where the words of `createRandom` start, so that `noise` from the same seed is made of others: half of the offsets that a number can count. */
const RANDOM_ORIGIN = 2 ** 52;

/** A seeded stand-in for Math.random, optionally continued from a `position` < 2^51. It shares no numbers with `noise` of the same seed below offset 2^52. */
export function createRandom(seed: Seed, position = 0): Random {
  checkSeed(seed);
  let next = checkInteger('position', position, 0, 2 ** 51 - 1);
  let loaded = -1;
  const words = new Uint32Array(2 * BLOCK);
  const random = () => {
    const block = Math.floor(next / BLOCK);
    if (block !== loaded) {
      randomBits(seed, RANDOM_ORIGIN + block * 2 * BLOCK, words);
      loaded = block;
    }
    const at = 2 * (next++ % BLOCK);
    return ((words[at]! >>> 5) * 2 ** 26 + (words[at + 1]! >>> 6)) * 2 ** -53;
  };
  return Object.defineProperty(random, 'position', { get: () => next }) as Random;
}
