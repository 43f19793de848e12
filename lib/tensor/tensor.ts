/** Tensors: shape, dtype and memory of latents and predictions, and views of the two branches of a stacked batch. */
/// <reference lib="esnext.disposable" preserve="true" />

import { isArray } from '../native/arrays.js';
import { SdpoError, SdpoRangeError } from '../native/errors.js';
import { checkInteger, checkNumbers, checkOneOf, checkOptions, failType, failValue } from '../native/validate.js';
import { checkCudaDevice, checkDevice } from './device.js';
import { type CopySide, copyRows, DeviceMemory, enlist } from './device-memory.js';
import { allocate, checkDType, type DType, decode, dtypeBytes, encode, type HostArray, holds } from './dtypes.js';
import { allocateResult } from './result-memory.js';
import { checkStream, laneOf, type Stream } from './stream.js';

/** How a stacked batch of pairs is laid out along its first axis. */
const LAYOUTS = ['halves', 'interleaved'] as const;

/** `halves`: all chosen rows, then all rejected rows (diffusers). `interleaved`: chosen, rejected, chosen, rejected, … (verl-omni). @useDeclaredType */
export type Layout = (typeof LAYOUTS)[number];

export interface TensorOptions {
  /** Axes, the first one counting rows; their product is the number of elements. Default: one axis. */
  shape?: readonly number[] | undefined;
  /** Default: float32 for a Float32Array or plain numbers, float64 for a Float64Array. A Uint16Array of bits must say which it is. */
  dtype?: DType | undefined;
}

export interface PointerOptions {
  /** Axes, the first one counting rows. */
  shape: readonly number[];
  dtype: DType;
  /** 'cuda:0', … */
  device: string;
  /** Elements from one row to the next, at least a row; default: rows without gaps. */
  rowStride?: number | undefined;
}

/** Where a tensor's rows lie in its storage; internal to the package. */
export interface Storage {
  readonly data: HostArray;
  /** Elements from one row to the next; larger than the row in an interleaved view. */
  readonly rowStride: number;
}

/** The same in the memory of a device; internal to the package. */
export interface DeviceStorage {
  readonly memory: DeviceMemory;
  /** Bytes from the start of the memory to the first row. */
  readonly offset: number;
  readonly rowStride: number;
}

/** What a view was split from; internal to the package. */
export interface ViewOrigin {
  readonly base: Tensor;
  readonly layout: Layout;
  readonly part: 'chosen' | 'rejected';
}

interface Parts {
  storage: Storage | DeviceStorage;
  shape: readonly number[];
  dtype: DType;
  origin?: ViewOrigin;
  /** The memory is another tensor's: disposing this one frees nothing. */
  borrowed?: boolean;
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
  /** Name of the device that holds the elements. */
  readonly device: string;
  #storage: Storage | DeviceStorage | undefined;
  readonly #origin: ViewOrigin | undefined;
  readonly #borrowed: boolean;

  private constructor({ storage, shape, dtype, origin, borrowed = origin !== undefined }: Parts) {
    this.#storage = storage;
    this.shape = Object.freeze(Array.from(shape));
    this.dtype = dtype;
    this.size = elementCount(shape);
    this.device = 'memory' in storage ? storage.memory.device : 'cpu';
    this.#origin = origin;
    this.#borrowed = borrowed;
  }

  /**
   * A tensor on the host. A typed array that already stores the dtype (Float64Array, Float32Array, or Uint16Array of bits for the 16-bit
   * types) is shared, not copied; other numbers are rounded to the dtype, to nearest even.
   * @throws TypeError for other data, RangeError where shape and length do not agree.
   */
  static from(values: ArrayLike<number>, options: TensorOptions = {}): Tensor {
    options = checkOptions('options', options, ['shape', 'dtype']);
    const data = checkNumbers('data', values);
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
    options = checkOptions('options', options, ['dtype', 'device']);
    const device = checkDevice('options.device', options.device ?? 'cpu');
    const dtype = options.dtype === undefined ? 'float32' : checkDType('options.dtype', options.dtype);
    return Tensor.allocate(checkShape('shape', shape), dtype, device, true);
  }

  /**
   * A tensor in device memory that somebody else owns: another library of this process, say. It is never freed here and has to stay until the
   * tensor is no longer used. Nothing can check that the address is right: a wrong one loses the device's context.
   *
   * @param pointer address of the first element, aligned to the dtype
   * @throws RangeError for an address that is null or not aligned, SdpoError ERR_SDPO_DEVICE for a device that does not exist
   */
  static fromPointer(pointer: bigint, options: PointerOptions): Tensor {
    if (typeof pointer !== 'bigint') failType('pointer', 'a bigint', pointer);
    options = checkOptions('options', options, ['shape', 'dtype', 'device', 'rowStride']);
    const dtype = checkDType('options.dtype', options.dtype);
    const shape = checkShape('options.shape', options.shape);
    const width = rowLength(shape);
    const rowStride = checkInteger('options.rowStride', options.rowStride ?? width, width);
    const device = checkCudaDevice('options.device', options.device);
    const extent = elementCount(shape) === 0 ? 0 : ((shape[0]! - 1) * rowStride + width) * dtypeBytes(dtype);
    if (pointer < 0n || pointer + BigInt(extent) >= 1n << 64n || pointer % BigInt(dtypeBytes(dtype)) !== 0n) {
      failValue('pointer', `an address of ${dtype} elements, aligned to ${dtypeBytes(dtype)} bytes`, pointer);
    }
    if (pointer === 0n && extent > 0) failValue('pointer', 'an address other than null', pointer);
    const memory = new DeviceMemory(device, pointer, extent, () => {});
    return new Tensor({ storage: { memory, offset: 0, rowStride }, shape, dtype });
  }

  static #contiguous(data: HostArray, shape: readonly number[], dtype: DType): Tensor {
    return new Tensor({ storage: { data, rowStride: rowLength(shape) }, shape, dtype });
  }

  /** @internal A contiguous tensor on any device; without `zero` it holds whatever was there. */
  static allocate(shape: readonly number[], dtype: DType, device: string, zero: boolean): Tensor {
    const size = elementCount(shape);
    if (device === 'cpu') return Tensor.#contiguous((zero ? allocate : allocateResult)(dtype, size), shape, dtype);
    return Tensor.onDevice(DeviceMemory.allocate(device, size * dtypeBytes(dtype), zero), shape, dtype);
  }

  /** @internal A contiguous tensor in memory of a device. */
  static onDevice(memory: DeviceMemory, shape: readonly number[], dtype: DType): Tensor {
    return new Tensor({ storage: { memory, offset: 0, rowStride: rowLength(shape) }, shape, dtype });
  }

  /** @internal A contiguous view of part of the memory of a device, `offset` bytes from its start, which ends with that memory and does not free it. */
  static within(memory: DeviceMemory, offset: number, shape: readonly number[], dtype: DType): Tensor {
    return new Tensor({ storage: { memory, offset, rowStride: rowLength(shape) }, shape, dtype, borrowed: true });
  }

  /** Size of the elements in bytes. */
  get byteLength(): number {
    return this.size * dtypeBytes(this.dtype);
  }

  /** The shared storage: writing to it changes the tensor. A view whose rows are not adjacent has none, nor has a device; `toHost` copies. */
  get data(): HostArray {
    const storage = storageOf(this);
    const { data } = storage;
    if (!isContiguous(this, storage)) {
      failValue('tensor', 'contiguous to have data (use toHost() for a copy)', this);
    }
    return data.length === this.size ? data : data.subarray(0, this.size);
  }

  /** Address of the first element in the memory of a device, for other libraries of this process; a tensor on the host has none. */
  get pointer(): bigint {
    const place = placeOf(this);
    if (!('memory' in place)) failValue('tensor', 'on a CUDA device to have a pointer', this);
    return place.memory.address + BigInt(place.offset);
  }

  /**
   * A copy of the elements in row order, as stored: Float64Array, Float32Array, or Uint16Array of bits. From a device it waits for the calls
   * of this package that write the tensor, and for `stream`, whatever was put on it.
   */
  toHost(options: { stream?: Stream } = {}): HostArray {
    options = checkOptions('options', options, ['stream']);
    const place = placeOf(this);
    const stream = checkStream('options.stream', options.stream, this.device);
    const out = allocate(this.dtype, this.size);
    const width = rowLength(this.shape);
    if ('memory' in place) {
      this.#copyTo({ memory: out, stride: width * dtypeBytes(this.dtype) }, place, stream);
      return out;
    }
    const { data, rowStride } = place;
    for (let row = 0; row < this.shape[0]!; row++) {
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

  /** The elements in the memory of a device, without gaps between rows; the tensor itself where it is already there. */
  to(device: string): Tensor {
    checkDevice('device', device);
    const place = placeOf(this);
    if (device === this.device) return this;
    if (device === 'cpu') return Tensor.#contiguous(this.toHost(), this.shape, this.dtype);
    const out = Tensor.allocate(this.shape, this.dtype, device, false);
    const bytes = dtypeBytes(this.dtype);
    const side = { memory: out.pointer, stride: rowLength(this.shape) * bytes };
    try {
      if ('memory' in place) this.#copyTo(side, place);
      else {
        const from = { memory: place.data, stride: place.rowStride * bytes };
        copyRows(device, this.shape[0]!, side.stride, side, from);
      }
    } catch (error) {
      out.dispose();
      throw error;
    }
    return out;
  }

  /** Copies from a device, after the work under way on the tensor. */
  #copyTo(to: CopySide, { memory, rowStride }: DeviceStorage, stream?: Stream): void {
    const bytes = dtypeBytes(this.dtype);
    const from = { memory: this.pointer, stride: rowStride * bytes };
    const lane = laneOf(stream);
    enlist(lane, [{ memory, writes: false }]);
    copyRows(this.device, this.shape[0]!, rowLength(this.shape) * bytes, to, from, lane);
    memory.settle(lane);
  }

  /**
   * Releases the memory; every later use is an SdpoError `ERR_SDPO_DISPOSED`. Disposing twice is harmless. On a device the memory is freed at
   * once, or when the last asynchronous call that uses it is over, and views that `split` made of the tensor end with it; disposing such a
   * view frees nothing. What nobody disposes is freed by the garbage collector, which knows little of the need for device memory.
   */
  dispose(): void {
    const storage = this.#storage;
    this.#storage = undefined;
    if (storage !== undefined && 'memory' in storage && !this.#borrowed) storage.memory.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** A Proxy of a tensor (Vue, MobX) and what merely has its prototype are none: they have no memory. */
  static [Symbol.hasInstance](value: unknown): boolean {
    return typeof value === 'object' && value !== null && #storage in value;
  }

  /** @internal */
  static place(tensor: Tensor, argument: string): Storage | DeviceStorage {
    if (!(tensor instanceof Tensor)) failType(argument, 'a Tensor', tensor);
    const storage = tensor.#storage;
    if (storage === undefined || ('memory' in storage && storage.memory.disposed)) {
      throw new SdpoError(
        'ERR_SDPO_DISPOSED',
        `Expected ${argument} to be a live tensor, received one that was disposed`,
      );
    }
    if ('memory' in storage) return storage;
    const { shape } = tensor;
    const extent = tensor.size === 0 ? 0 : (shape[0]! - 1) * storage.rowStride + rowLength(shape);
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
    const place = placeOf(base);
    const rows = base.shape[0]! / 2;
    const first = (part === 'chosen' ? 0 : layout === 'halves' ? rows : 1) * place.rowStride;
    const rowStride = layout === 'halves' ? place.rowStride : 2 * place.rowStride;
    const storage =
      'memory' in place
        ? { memory: place.memory, offset: place.offset + first * dtypeBytes(base.dtype), rowStride }
        : { data: place.data.subarray(first), rowStride };
    return new Tensor({
      storage,
      shape: [rows, ...base.shape.slice(1)],
      dtype: base.dtype,
      origin: { base, layout, part },
    });
  }
}

/** Where a live tensor is; an error that calls it `argument` for one that was disposed or whose buffer was taken away. */
export function placeOf(tensor: Tensor, argument = 'tensor'): Storage | DeviceStorage {
  return Tensor.place(tensor, argument);
}

/** The storage of a live tensor on the host; an error that calls it `argument` for any other. */
function storageOf(tensor: Tensor, argument = 'tensor'): Storage {
  const place = placeOf(tensor, argument);
  if ('memory' in place) {
    throw new SdpoRangeError(
      'ERR_SDPO_DEVICE',
      `Expected ${argument} to be on the cpu (toHost() copies the elements, to('cpu') the tensor), received one on ${tensor.device}`,
    );
  }
  return place;
}

/** Whether the rows of a live tensor lie one after the other. */
export function isContiguous(tensor: Tensor, { rowStride }: { readonly rowStride: number }): boolean {
  return tensor.shape[0]! <= 1 || rowStride === rowLength(tensor.shape);
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
  if (tensor.shape.length === 0 || tensor.shape[0]! % 2 !== 0) {
    failValue('tensor', 'a stacked batch with an even first axis', tensor, 'ERR_SDPO_INVALID_LENGTH');
  }
  return { chosen: Tensor.view(tensor, layout, 'chosen'), rejected: Tensor.view(tensor, layout, 'rejected') };
}

/** Elements of one row. */
export function rowLength(shape: readonly number[]): number {
  let length = 1;
  for (let axis = 1; axis < shape.length; axis++) length *= shape[axis]!;
  return length;
}

function elementCount(shape: readonly number[]): number {
  return shape.reduce((product, axis) => product * axis, 1);
}

/** As many axes as NumPy has. */
const MOST_AXES = 64;

/** A shape of the caller, each axis read once. */
function checkShape(argument: string, value: unknown): readonly number[] {
  if (!isArray(value)) failType(argument, 'an array of integers >= 0', value);
  const axes = value.length;
  if (axes === 0) failValue(argument, 'of at least one axis', value, 'ERR_SDPO_INVALID_LENGTH');
  if (!(axes <= MOST_AXES)) failValue(argument, `of at most ${MOST_AXES} axes`, value, 'ERR_SDPO_INVALID_LENGTH');
  const shape: number[] = [];
  for (let axis = 0; axis < axes; axis++) shape.push(checkInteger(`${argument}[${axis}]`, value[axis], 0));
  // Of no rows as well, whose stride is a number that others compute with.
  if (!Number.isSafeInteger(elementCount(shape)) || !Number.isSafeInteger(rowLength(shape))) {
    failValue(argument, 'of a number of elements below 2^53', `[${shape.join(', ')}]`, 'ERR_SDPO_INVALID_LENGTH');
  }
  return shape;
}
