/** Streams: queues of a device, whose calls run in order and beside those of other queues. */
/// <reference lib="esnext.disposable" preserve="true" />

import { binding } from '../native/binding.js';
import { SdpoError } from '../native/errors.js';
import { failType, failValue } from '../native/validate.js';
import { checkCudaDevice, locationOf } from './device.js';
import { DEFAULT_LANE, type Lane, Leased } from './device-memory.js';

interface Parts {
  device: string;
  handle: bigint;
  free: () => void;
}

/**
 * A queue of a CUDA device, given to calls as their option `stream`. Calls that share a tensor take effect in the order in which they were
 * made, whatever their streams; for memory that others write too (`Tensor.fromPointer`) order is the caller's, with `wait` or `synchronize`.
 */
export class Stream {
  /** Name of the device, 'cuda:0'. */
  readonly device: string;
  readonly #leased: Leased;
  readonly #lane: Lane;

  /**
   * A new stream, which does not wait for the default stream.
   * @throws SdpoError ERR_SDPO_DEVICE where the device does not exist; CudaError where it fails.
   */
  constructor(device: string);
  /** @internal */
  constructor(device: string, parts?: Parts);
  constructor(device: string, parts: Parts = created(device)) {
    this.device = parts.device;
    const leased = new Leased(parts.free);
    this.#leased = leased;
    this.#lane = {
      handle: parts.handle,
      get disposed() {
        return leased.disposed;
      },
    };
  }

  /**
   * A stream that somebody else owns.
   * @param handle its cudaStream_t; 0n is the default stream. The per-thread default stream (2n) cannot be used. It has to stay until this
   *   object is disposed.
   */
  static external(device: string, handle: bigint): Stream {
    checkCudaDevice('device', device);
    if (typeof handle !== 'bigint') failType('handle', 'a bigint', handle);
    if (handle < 0n || handle >= 1n << 64n || handle === 2n) {
      failValue('handle', 'a cudaStream_t other than that of the per-thread default stream', handle);
    }
    return new Stream(device, { device, handle, free: () => binding.streamRelease(locationOf(device), handle) });
  }

  /** Its cudaStream_t, for other libraries of this process. */
  get handle(): bigint {
    return laneOf(this).handle;
  }

  /** Returns when everything that was put on the stream is done. */
  synchronize(): void {
    binding.streamSynchronize(locationOf(this.device), laneOf(this).handle);
  }

  /** What is put on this stream from now on starts after what is on `other` now. The calling thread does not wait. */
  wait(other: Stream): void {
    if (!(other instanceof Stream)) failType('other', 'a Stream', other);
    // It would draw the other stream into the capture, whose calls would be taken for calls that run.
    for (const [name, { captured }] of [['this stream', this.#lane] as const, ['other', other.#lane] as const]) {
      if (captured !== undefined) failValue(name, 'a stream that is not being captured', 'one that is');
    }
    if (other.device !== this.device) {
      throw new SdpoError(
        'ERR_SDPO_DEVICE',
        `Expected other to be a stream of ${this.device}, received one of ${other.device}`,
      );
    }
    binding.streamWait(locationOf(this.device), laneOf(this).handle, laneOf(other, 'other').handle);
  }

  /** Waits for the stream's work and frees it (an external one: what was cached for it), once no asynchronous call uses it. */
  dispose(): void {
    this.#leased.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  /** @internal */
  static parts(stream: Stream): { lane: Lane; leased: Leased } {
    return { lane: stream.#lane, leased: stream.#leased };
  }
}

function created(device: string): Parts {
  checkCudaDevice('device', device);
  const owner = binding.streamCreate(locationOf(device));
  return { device, handle: binding.ownedHandle(owner), free: () => binding.ownedFree(owner) };
}

/** The lane of a live stream, or of the default stream. */
export function laneOf(stream: Stream | undefined, argument = 'stream'): Lane {
  if (stream === undefined) return DEFAULT_LANE;
  const { lane } = Stream.parts(stream);
  if (lane.disposed) {
    throw new SdpoError(
      'ERR_SDPO_DISPOSED',
      `Expected ${argument} to be a live stream, received one that was disposed`,
    );
  }
  return lane;
}

/** The option `stream` of a call whose tensors lie on `device`. */
export function checkStream(argument: string, value: unknown, device: string): Stream | undefined {
  if (value === undefined) return undefined;
  if (!(value instanceof Stream)) failType(argument, 'a Stream', value);
  laneOf(value, argument);
  if (value.device !== device) {
    throw new SdpoError(
      'ERR_SDPO_DEVICE',
      `Expected ${argument} to be a stream of ${device}, where the tensors are, received one of ${value.device}`,
    );
  }
  return value;
}
