/** Element types of tensors: their names, their JavaScript storage, and conversion from plain numbers. */

import { SdpoError } from '../native/errors.js';
import { DTYPES, type DType } from '../native/names.js';
import { checkOneOf } from '../native/validate.js';

export { DTYPES, type DType } from '../native/names.js';

/** Storage of a tensor on the host: the 16-bit types are kept as their bits. */
export type HostArray = Float64Array | Float32Array | Uint16Array;

interface DTypeRow {
  readonly bytes: number;
  readonly array: Float64ArrayConstructor | Float32ArrayConstructor | Uint16ArrayConstructor;
}

const TABLE: { readonly [T in DType]: DTypeRow } = {
  float64: { bytes: 8, array: Float64Array },
  float32: { bytes: 4, array: Float32Array },
  float16: { bytes: 2, array: Uint16Array },
  bfloat16: { bytes: 2, array: Uint16Array },
};

/** Bytes of one element. */
export function dtypeBytes(dtype: DType): number {
  return TABLE[dtype].bytes;
}

/** The number of a dtype in the native table. */
export function dtypeIndex(dtype: DType): number {
  return DTYPES.indexOf(dtype);
}

export function checkDType(argument: string, value: unknown): DType {
  return checkOneOf(argument, value, DTYPES);
}

/** @throws SdpoError ERR_SDPO_OUT_OF_MEMORY where there is not so much memory, or no array of such a length. */
export function allocate(dtype: DType, length: number): HostArray {
  try {
    return new TABLE[dtype].array(length);
  } catch (cause) {
    throw new SdpoError(
      'ERR_SDPO_OUT_OF_MEMORY',
      `Expected memory for ${length} elements of ${dtype} (${length * dtypeBytes(dtype)} bytes), received none`,
      { cause },
    );
  }
}

/** The elements of a whole buffer. */
export function hostArray(dtype: DType, buffer: ArrayBuffer): HostArray {
  return new TABLE[dtype].array(buffer);
}

/** Whether a value is the typed array that holds this dtype. */
export function holds(dtype: DType, value: unknown): value is HostArray {
  return value instanceof TABLE[dtype].array;
}

const scratch = new DataView(new ArrayBuffer(8));

/** Bits of the float16 nearest to a number, ties to even. */
function float16Bits(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (magnitude >= 65520) return sign | 0x7c00;
  // The spacing of float16 around the number; dividing by a power of two is exact, so one rounding decides.
  scratch.setFloat64(0, magnitude);
  const exponent = Math.max(-14, (scratch.getUint32(0) >>> 20) - 1023);
  const units = roundToEven(magnitude / 2 ** (exponent - 10));
  // Units from 2^10 on carry the implicit bit; adding lets a rounding overflow run into the exponent.
  return sign | (((exponent + 14) << 10) + units);
}

/** Bits of the bfloat16 nearest to a number, ties to even. */
function bfloat16Bits(value: number): number {
  if (Number.isNaN(value)) return 0x7fc0;
  scratch.setFloat32(0, value);
  const bits = scratch.getUint32(0);
  // A number that rounding to float32 put exactly half way must not be rounded again by its last bit.
  const exact = Math.fround(value);
  let low = bits & 0xffff;
  if (low === 0x8000 && exact !== value) low += Math.abs(value) > Math.abs(exact) ? 1 : -1;
  const high = bits >>> 16;
  return low > 0x8000 || (low === 0x8000 && (high & 1) === 1) ? (high + 1) & 0xffff : high;
}

/** The number that float16 bits stand for. */
export function float16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 31;
  const fraction = bits & 1023;
  if (exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1024 + fraction) * 2 ** (exponent - 25);
}

/** The number that bfloat16 bits stand for. */
export function bfloat16Value(bits: number): number {
  scratch.setUint32(0, bits << 16);
  return scratch.getFloat32(0);
}

function roundToEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 === 1) ? floor + 1 : floor;
}

/** Rounds plain numbers into the storage of a dtype. */
export function encode(dtype: DType, values: ArrayLike<number>): HostArray {
  const out = allocate(dtype, values.length);
  const convert = dtype === 'float16' ? float16Bits : dtype === 'bfloat16' ? bfloat16Bits : undefined;
  for (let i = 0; i < values.length; i++) out[i] = convert ? convert(values[i]!) : values[i]!;
  return out;
}

/** The numbers that stored elements stand for, exactly. */
export function decode<T extends Float32Array | Float64Array>(dtype: DType, stored: HostArray, out: T): T {
  const convert = dtype === 'float16' ? float16Value : dtype === 'bfloat16' ? bfloat16Value : undefined;
  for (let i = 0; i < stored.length; i++) out[i] = convert ? convert(stored[i]!) : stored[i]!;
  return out;
}
