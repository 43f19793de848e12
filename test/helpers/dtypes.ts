/** Rounding to float16, bfloat16 and float32 by definition, for tests that need exact inputs and simulated arithmetic. */

export const dtypes = ['float64', 'float32', 'float16', 'bfloat16'] as const;
export type DType = (typeof dtypes)[number];

interface Format {
  /** Stored bits of the significand. */
  fraction: number;
  /** Smallest exponent of a normal number. */
  minExponent: number;
  maxExponent: number;
}

const formats: Record<DType, Format> = {
  float64: { fraction: 52, minExponent: -1022, maxExponent: 1023 },
  float32: { fraction: 23, minExponent: -126, maxExponent: 127 },
  float16: { fraction: 10, minExponent: -14, maxExponent: 15 },
  bfloat16: { fraction: 7, minExponent: -126, maxExponent: 127 },
};

/** Distance from 1 to the next number. */
export function epsilonOf(dtype: DType): number {
  return 2 ** -formats[dtype].fraction;
}

/** The smallest positive normal number: below it the spacing stays absolute. */
export function smallestNormal(dtype: DType): number {
  return 2 ** formats[dtype].minExponent;
}

/** Rounds to the nearest number of the dtype, ties to even. */
export function rounding(dtype: DType): (value: number) => number {
  if (dtype === 'float64') return (value) => value;
  if (dtype === 'float32') return Math.fround;
  const { fraction, minExponent, maxExponent } = formats[dtype];
  const largest = (2 - 2 ** -fraction) * 2 ** maxExponent;
  return (value) => {
    if (value === 0 || !Number.isFinite(value)) return value;
    const exponent = Math.max(exponentOf(value), minExponent);
    if (exponent > maxExponent) return Math.sign(value) * Infinity;
    // Added to it, the last bit of float64 stands where the last bit of the short format stands: the hardware rounds, ties to even.
    const shifter = shifters[exponent - fraction + shifterOffset];
    const rounded = value + shifter - shifter;
    return Math.abs(rounded) > largest ? Math.sign(value) * Infinity : rounded;
  };
}

/** 1.5 · 2^(52 + n): float64 numbers around it are 2^n apart. */
const shifterOffset = 200;
const shifters = new Float64Array(2 * shifterOffset).map((_, n) => 1.5 * 2 ** (52 + n - shifterOffset));

const scratch = new DataView(new ArrayBuffer(8));

function exponentOf(value: number): number {
  scratch.setFloat64(0, value);
  return ((scratch.getUint16(0) >> 4) & 0x7ff) - 1023;
}

/** A Float64Array of f(values[i]); several times faster than Float64Array.from, which goes through the iterator. */
export function mapped(values: ArrayLike<number>, f: (value: number, at: number) => number): Float64Array {
  const out = new Float64Array(values.length);
  for (let at = 0; at < out.length; at++) out[at] = f(values[at], at);
  return out;
}

export type TypedArray = Float64Array | Float32Array | Uint16Array;

/** The values in the dtype's own storage, rounded; the bits of the two 16-bit dtypes. */
export function encode(dtype: DType, values: ArrayLike<number>): TypedArray {
  if (dtype === 'float64') return new Float64Array(values);
  if (dtype === 'float32') return new Float32Array(values);
  const round = rounding(dtype);
  const toBits = dtype === 'float16' ? float16Bits : bfloat16Bits;
  const bits = new Uint16Array(values.length);
  for (let at = 0; at < bits.length; at++) bits[at] = toBits(round(values[at]));
  return bits;
}

export function decode(dtype: DType, stored: ArrayLike<number>): Float64Array {
  if (dtype === 'float16') return mapped(stored, float16Value);
  if (dtype === 'bfloat16') return mapped(stored, bfloat16Value);
  return new Float64Array(stored);
}

function float16Bits(value: number): number {
  const sign = value < 0 || Object.is(value, -0) ? 0x8000 : 0;
  const magnitude = Math.abs(value);
  if (Number.isNaN(value)) return 0x7e00;
  if (magnitude === Infinity) return sign | 0x7c00;
  if (magnitude < 2 ** -14) return sign | (magnitude * 2 ** 24);
  const exponent = exponentOf(magnitude);
  return sign | ((exponent + 15) << 10) | ((magnitude / 2 ** exponent - 1) * 2 ** 10);
}

function float16Value(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 0x1f) return fraction ? Number.NaN : sign * Infinity;
  if (exponent === 0) return sign * fraction * 2 ** -24;
  return sign * (1 + fraction / 2 ** 10) * 2 ** (exponent - 15);
}

function bfloat16Bits(value: number): number {
  scratch.setFloat32(0, value);
  return scratch.getUint16(0);
}

function bfloat16Value(bits: number): number {
  scratch.setUint16(0, bits);
  scratch.setUint16(2, 0);
  return scratch.getFloat32(0);
}
