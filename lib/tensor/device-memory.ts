/** Memory of a device: who frees it and when, and the order of the calls that use it on different streams. */

import type { NativeMemory } from '../../binding.js';
import { binding } from '../native/binding.js';
import { locationOf } from './device.js';

/** Something of a device that is freed once nobody wants it any more and no call under way uses it; internal to the package. */
export class Leased {
  #uses = 0;
  #disposed = false;
  #free: (() => void) | undefined;

  constructor(free: () => void) {
    this.#free = free;
  }

  get disposed(): boolean {
    return this.#disposed;
  }

  /** A call under way uses it. */
  retain(): void {
    this.#uses++;
  }

  /** The call is over. */
  release(): void {
    this.#uses--;
    this.#freeUnused();
  }

  /** Nobody may use it from now on; it is freed when the last call is over. */
  dispose(): void {
    this.#disposed = true;
    this.#freeUnused();
  }

  #freeUnused(): void {
    if (!this.#disposed || this.#uses > 0) return;
    const free = this.#free;
    this.#free = undefined;
    free?.();
  }
}

/** A stream as calls see it. One that is disposed has nothing under way and must not be named to the device. */
export interface Lane {
  readonly handle: bigint;
  readonly disposed: boolean;
  /** While the stream is captured: what the recorded calls use, which every launch of the graph will. */
  captured?: Access[] | undefined;
}

/** The stream of calls that name none: CUDA's default stream. */
export const DEFAULT_LANE: Readonly<Lane> = { handle: 0n, disposed: false };

/** A block of device memory. All tensors that are views of it share it. */
export class DeviceMemory extends Leased {
  readonly device: string;
  readonly address: bigint;
  readonly bytes: number;
  /** What may still be under way here: the last stream that writes, and the streams that have read since. */
  #writer: Lane | undefined;
  readonly #readers = new Set<Lane>();

  constructor(device: string, address: bigint, bytes: number, free: () => void) {
    super(free);
    this.device = device;
    this.address = address;
    this.bytes = bytes;
  }

  /** New memory; `zero` fills it with zeros. The garbage collector frees what nobody disposed. */
  static allocate(device: string, bytes: number, zero: boolean): DeviceMemory {
    const owner = binding.deviceAllocate(locationOf(device), bytes, zero);
    return new DeviceMemory(device, binding.ownedHandle(owner), bytes, () => binding.ownedFree(owner));
  }

  /** The streams whose work has to come before an access on `lane`. */
  before(lane: Lane, writes: boolean): Lane[] {
    const others = writes ? [this.#writer, ...this.#readers] : [this.#writer];
    return others.filter((other): other is Lane => other !== undefined && other !== lane && !other.disposed);
  }

  /** Notes an access that was put on `lane`. */
  note(lane: Lane, writes: boolean): void {
    if (writes) {
      this.#readers.clear();
      this.#writer = lane;
    } else {
      this.#readers.add(lane);
    }
  }

  /** Everything that was put on `lane` is done. */
  settle(lane: Lane): void {
    this.#readers.delete(lane);
    if (this.#writer === lane) this.#writer = undefined;
  }
}

/** An access of a call to memory. */
export interface Access {
  readonly memory: DeviceMemory;
  readonly writes: boolean;
}

/**
 * To be called before work is put on `lane`: lets it wait, on the device, for earlier work of other streams on the same memory, and notes the
 * accesses. So calls that share a tensor take effect in the order in which they were made, whatever their streams. A call that is captured does
 * not run, and waits for nothing.
 */
export function enlist(
  lane: Lane,
  accesses: readonly Access[],
  wait: (device: number, stream: bigint, other: bigint) => void = binding.streamWait,
): void {
  if (lane.captured !== undefined) {
    lane.captured.push(...accesses);
    return;
  }
  if (accesses.length === 0) return;
  const others = new Set(accesses.flatMap(({ memory, writes }) => memory.before(lane, writes)));
  for (const other of others) wait(locationOf(accesses[0]!.memory.device), lane.handle, other.handle);
  for (const { memory, writes } of accesses) memory.note(lane, writes);
}

/** Part of a copy: elements on the host or bytes at an address, and the bytes from one row to the next. */
export interface CopySide {
  readonly memory: NativeMemory;
  readonly stride: number;
}

/** Copies rows of `width` bytes between the host and a device, or between devices, after what is on `lane`; done when it returns. */
export function copyRows(
  device: string,
  rows: number,
  width: number,
  to: CopySide,
  from: CopySide,
  lane: Lane = DEFAULT_LANE,
): void {
  binding.deviceCopy(
    locationOf(device),
    rows,
    width,
    to.memory,
    to.stride,
    from.memory,
    from.stride,
    lane.handle === 0n ? null : lane.handle,
  );
}
