/** CUDA graphs: calls that are recorded once, and made again by a single launch. */
/// <reference lib="esnext.disposable" preserve="true" />

import { binding } from '../native/binding.js';
import { SdpoError } from '../native/errors.js';
import { failType, failValue } from '../native/validate.js';
import { locationOf } from './device.js';
import { type Access, enlist, type Lane, Leased } from './device-memory.js';
import { laneOf, Stream } from './stream.js';

/**
 * What was put on a stream during a capture, ready to be launched on that stream, as often as wanted. A launch reads and writes the same tensors as the
 * recorded calls did, with what is in them by then; numbers that came from the host (lists, options) are those of the capture. It counts as a call
 * that uses all these tensors: calls that share one of them take effect in the order in which they were made. The tensors stay until the graph is
 * disposed, whoever disposes them.
 */
export class Graph {
  /** Name of the device, 'cuda:0'. */
  readonly device: string;
  readonly #lane: Lane;
  readonly #handle: bigint;
  readonly #accesses: readonly Access[];
  readonly #leased: Leased;

  /** @internal */
  constructor(stream: Stream, owner: ReturnType<typeof binding.captureEnd>, accesses: readonly Access[]) {
    this.device = stream.device;
    const { lane, leased } = Stream.parts(stream);
    this.#lane = lane;
    this.#handle = binding.ownedHandle(owner);
    this.#accesses = accesses;
    const used = new Set([leased, ...accesses.map(({ memory }) => memory)]);
    for (const resource of used) resource.retain();
    this.#leased = new Leased(() => {
      binding.ownedFree(owner);
      for (const resource of used) resource.release();
    });
  }

  /**
   * Records what `body` puts on a stream: `evaluate` with `results: 'device'`, `gradients` of such a result, `noise`, `addNoise` and `target`. Nothing of it runs
   * meanwhile. A call whose results the host reads cannot be recorded, nor one that needs a larger workspace than the stream has:
   * `PreferenceLoss.reserve` makes it.
   * @param stream not the default stream, which cannot be captured.
   * @throws CudaError where a call cannot be recorded; what `body` throws. Then nothing is left of the capture.
   */
  static capture(stream: Stream, body: () => void): Graph {
    if (!(stream instanceof Stream)) failType('stream', 'a Stream', stream);
    if (typeof body !== 'function') failType('body', 'a function', body);
    const lane = laneOf(stream);
    if (lane.captured !== undefined) failValue('stream', 'a stream that is not being captured', 'one that is');
    const device = locationOf(stream.device);
    binding.captureBegin(device, lane.handle);
    const accesses: Access[] = [];
    lane.captured = accesses;
    try {
      const over: unknown = body();
      if (over instanceof Promise) {
        over.catch(() => {});
        failType('body', 'a function that is over when it returns', 'one that returned a promise');
      }
    } catch (error) {
      discard(device, lane.handle);
      throw error;
    } finally {
      lane.captured = undefined;
    }
    return new Graph(stream, binding.captureEnd(device, lane.handle), accesses);
  }

  /** Puts all of it on its stream, and returns. */
  launch(): void {
    if (this.#leased.disposed) {
      throw new SdpoError('ERR_SDPO_DISPOSED', 'Expected a live graph, received one that was disposed');
    }
    if (this.#lane.disposed) {
      throw new SdpoError(
        'ERR_SDPO_DISPOSED',
        'Expected the stream of the graph to be live, received one that was disposed',
      );
    }
    enlist(this.#lane, this.#accesses);
    binding.graphLaunch(locationOf(this.device), this.#handle, this.#lane.handle);
  }

  /** Frees the graph; a launch that is under way ends by itself. */
  dispose(): void {
    this.#leased.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }
}

/** Ends a capture that is of no use any more. */
function discard(device: number, stream: bigint): void {
  try {
    binding.ownedFree(binding.captureEnd(device, stream));
  } catch {
    // A capture that a call has invalidated ends with an error, and has ended.
  }
}
