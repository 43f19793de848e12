/** Tensors: shape, dtype and memory of latents and predictions, and views of the two branches of a stacked batch. */

import { checkDevice } from './device.js';
import { allocate, checkDType, type DType, decode, dtypeBytes, encode, type HostArray, holds } from './dtypes.js';
import { SdpoError } from './errors.js';
import { checkNumbers, checkOneOf, checkOptions, failType, failValue } from './validate.js';

/** How a stacked batch of pairs is laid out along its first axis. */
export const LAYOUTS = ['halves', 'interleaved'] as const;

/** `halves`: all chosen rows, then all rejected rows (diffusers). `interleaved`: chosen, rejected, chosen, rejected, … (verl-omni). */
export type Layout = (typeof LAYOUTS)[number];

export interface TensorOptions {
  /** Axes, the first one counting rows; their product is the number of elements. Default: one axis. */
  shape?: readonly number[];
  /** Default: float32 for a Float32Array or plain numbers, float64 for a Float64Array. A Uint16Array of bits must say which it is. */
  dtype?: DType;
}

/** Where a tensor's rows lie in its storage; internal to the package. */
export interface Storage {
  readonly data: HostArray;
  /** Elements from one row to the next; larger than the row in an interleaved view. */
  readonly rowStride: number;
}

/** What a view was split from; internal to the package. */
export interface ViewOrigin {
  readonly base: Tensor;
  readonly layout: Layout;
  readonly part: 'chosen' | 'rejected';
}

interface Parts {
  storage: Storage;
  shape: readonly number[];
  dtype: DType;
  origin?: ViewOrigin;
}

/**
 * Elements of one dtype with a shape, in the memory of a device. Rows (the first axis) are contiguous; everything behind the first axis is
 * one run of D elements, whatever its rank.
 */
export class Tensor {
  readonly shape: readonly number[];
  readonly dtype: DType;
  /** Number of elements. */
  readonly size: number;
  #storage: Storage | undefined;
  readonly #origin: ViewOrigin | undefined;

  private constructor({ storage, shape, dtype, origin }: Parts) {
    this.#storage = storage;
    this.shape = Object.freeze(Array.from(shape));
    this.dtype = dtype;
    this.size = elementCount(shape);
    this.#origin = origin;
  }

  /**
   * A tensor on the host. A typed array that already stores the dtype (Float64Array, Float32Array, or Uint16Array of bits for the 16-bit
   * types) is shared, not copied; other numbers are rounded to the dtype, to nearest even.
   * @throws TypeError for other data, RangeError where shape and length do not agree.
   */
  static from(data: ArrayLike<number>, options: TensorOptions = {}): Tensor {
    checkOptions('options', options, ['shape', 'dtype']);
    checkNumbers('data', data);
    if (options.dtype === undefined && data instanceof Uint16Array) {
      failType('options.dtype', "'float16' or 'bfloat16' for a Uint16Array of bits", undefined);
    }
    const dtype =
      options.dtype === undefined
        ? data instanceof Float64Array
          ? 'float64'
          : 'float32'
        : checkDType('options.dtype', options.dtype);
    const shape = options.shape === undefined ? [data.length] : checkShape('options.shape', options.shape);
    if (elementCount(shape) !== data.length) {
      failValue(
        'data',
        `of length ${elementCount(shape)} for shape [${shape.join(', ')}]`,
        data,
        'ERR_SDPO_INVALID_LENGTH',
      );
    }
    if (dtype !== 'float16' && dtype !== 'bfloat16' && data instanceof Uint16Array) {
      failType('data', `numbers for dtype '${dtype}' (a Uint16Array holds the bits of 16-bit floats)`, data);
    }
    const stored = holds(dtype, data) ? data : encode(dtype, data);
    return Tensor.#contiguous(stored, shape, dtype);
  }

  /** A tensor of zeros. */
  static empty(shape: readonly number[], options: { dtype?: DType; device?: string } = {}): Tensor {
    checkOptions('options', options, ['dtype', 'device']);
    checkDevice('options.device', options.device ?? 'cpu');
    const dtype = options.dtype === undefined ? 'float32' : checkDType('options.dtype', options.dtype);
    const checked = checkShape('shape', shape);
    return Tensor.#contiguous(allocate(dtype, elementCount(checked)), checked, dtype);
  }

  static #contiguous(data: HostArray, shape: readonly number[], dtype: DType): Tensor {
    return new Tensor({ storage: { data, rowStride: rowLength(shape) }, shape, dtype });
  }

  /** Name of the device that holds the elements. */
  get device(): string {
    return 'cpu';
  }

  /** Size of the elements in bytes. */
  get byteLength(): number {
    return this.size * dtypeBytes(this.dtype);
  }

  /** The shared storage: writing to it changes the tensor. A view whose rows are not adjacent has none; `toHost` copies it. */
  get data(): HostArray {
    const { data, rowStride } = storageOf(this);
    if (this.shape[0] > 1 && rowStride !== rowLength(this.shape)) {
      failValue('tensor', 'contiguous to have data (use toHost() for a copy)', this);
    }
    return data.length === this.size ? data : data.subarray(0, this.size);
  }

  /** A copy of the elements in row order, as stored: Float64Array, Float32Array, or Uint16Array of bits. */
  toHost(): HostArray {
    const { data, rowStride } = storageOf(this);
    const width = rowLength(this.shape);
    const out = allocate(this.dtype, this.size);
    for (let row = 0; row < this.shape[0]; row++) {
      out.set(data.subarray(row * rowStride, row * rowStride + width), row * width);
    }
    return out;
  }

  /** A copy of the elements as float32; float64 is rounded, 16-bit types are exact. */
  toFloat32(): Float32Array {
    return decode(this.dtype, this.toHost(), new Float32Array(this.size));
  }

  /** A copy of the elements as float64, exact for every dtype. */
  toFloat64(): Float64Array {
    return decode(this.dtype, this.toHost(), new Float64Array(this.size));
  }

  /** The tensor in the memory of a device; itself where it is already there. */
  to(device: string): Tensor {
    checkDevice('device', device);
    storageOf(this);
    return this;
  }

  /** Releases the memory; every later use is an SdpoError `ERR_SDPO_DISPOSED`. Disposing twice is harmless. */
  dispose(): void {
    this.#storage = undefined;
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal */
  static storage(tensor: Tensor, argument: string): Storage {
    const storage = tensor.#storage;
    if (storage === undefined) {
      throw new SdpoError(
        'ERR_SDPO_DISPOSED',
        `Expected ${argument} to be a live tensor, received one that was disposed`,
      );
    }
    const { shape } = tensor;
    const extent = tensor.size === 0 ? 0 : (shape[0] - 1) * storage.rowStride + rowLength(shape);
    if (storage.data.length < extent) {
      failValue(argument, 'a tensor whose memory is still attached', tensor, 'ERR_SDPO_INVALID_LENGTH');
    }
    return storage;
  }

  /** @internal */
  static origin(tensor: Tensor): ViewOrigin | undefined {
    return tensor.#origin;
  }

  /** @internal */
  static view(base: Tensor, layout: Layout, part: 'chosen' | 'rejected'): Tensor {
    const { data, rowStride } = storageOf(base);
    const rows = base.shape[0] / 2;
    const first = part === 'chosen' ? 0 : layout === 'halves' ? rows : 1;
    return new Tensor({
      storage: { data: data.subarray(first * rowStride), rowStride: layout === 'halves' ? rowStride : 2 * rowStride },
      shape: [rows, ...base.shape.slice(1)],
      dtype: base.dtype,
      origin: { base, layout, part },
    });
  }
}

/** The storage of a live tensor; an error that calls it `argument` for one that was disposed or whose buffer was taken away. */
export function storageOf(tensor: Tensor, argument = 'tensor'): Storage {
  return Tensor.storage(tensor, argument);
}

/** The two branches of a stacked batch. */
export interface BranchViews {
  chosen: Tensor;
  rejected: Tensor;
}

/**
 * Views of the chosen and the rejected rows of a stacked batch [2n, …], without a copy. Used as the two policies of a batch, such views
 * give gradients that are views of one stacked gradient, `gradients.stacked`.
 * @throws RangeError where the first axis is not even.
 */
export function split(tensor: Tensor, layout: Layout): BranchViews {
  if (!(tensor instanceof Tensor))
    failType('tensor', 'a Tensor (Tensor.from wraps a typed array without copying)', tensor);
  checkOneOf('layout', layout, LAYOUTS);
  if (tensor.shape.length === 0 || tensor.shape[0] % 2 !== 0) {
    failValue('tensor', 'a stacked batch with an even first axis', tensor, 'ERR_SDPO_INVALID_LENGTH');
  }
  return { chosen: Tensor.view(tensor, layout, 'chosen'), rejected: Tensor.view(tensor, layout, 'rejected') };
}

/** Elements of one row. */
export function rowLength(shape: readonly number[]): number {
  let length = 1;
  for (let axis = 1; axis < shape.length; axis++) length *= shape[axis];
  return length;
}

function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, axis) => product * axis, 1);
}

function checkShape(argument: string, value: unknown): readonly number[] {
  if (!Array.isArray(value)) failType(argument, 'an array of integers >= 0', value);
  for (const [axis, length] of value.entries()) {
    if (!Number.isInteger(length) || length < 0) failValue(`${argument}[${axis}]`, 'an integer >= 0', length);
  }
  if (value.length === 0) failValue(argument, 'of at least one axis', value, 'ERR_SDPO_INVALID_LENGTH');
  return value;
}
