/** The native contract: every export of the addon and nothing else. Callers in lib/ have checked all arguments; the addon re-checks lengths and types. */

/** Element storage: Float64Array for float64, Float32Array for float32, Uint16Array (bits) for float16 and bfloat16. */
export type NativeArray = Float64Array | Float32Array | Uint16Array;

/** Elements on the host as their array, or on a device by their address; all operands of a call lie on the device that the call names. */
export type NativeMemory = NativeArray | bigint;

/** Where memory lies: 0 is the host, n + 1 is cuda:n. */
export type NativeLocation = number;

/** The owner of device memory or of a stream, which the garbage collector frees at the latest. */
export interface NativeOwner {
  readonly __owner: unique symbol;
}

/** Closed lists and field layouts, in the order of their numbers. */
export interface NativeTables {
  readonly dtypes: readonly string[];
  readonly objectives: readonly string[];
  readonly links: readonly string[];
  /** First 'automatic': what the objective does where none is chosen. */
  readonly pairWeights: readonly string[];
  readonly weightRatios: readonly string[];
  readonly timestepWeightings: readonly string[];
  readonly logRatioReductions: readonly string[];
  readonly scopes: readonly string[];
  readonly safeguardScopes: readonly string[];
  readonly nonFinite: readonly string[];
  /** Options of the loss; enumerators are numbers of the lists above. */
  readonly options: readonly string[];
  /** Numbers per row, and for each what its values have to be: 'any', 'finite' or 'notNegative'. */
  readonly rowInputs: readonly string[];
  readonly rowChecks: readonly string[];
  /** What the number of a row input in the header is: the value of all rows, the position of a list in `lists`, or the bits of an address. */
  readonly rowSources: readonly string[];
  /** Fields of `rowOutputs`, a Float64Array [fields, rows]. */
  readonly rowOutputs: readonly string[];
  /** Fields of `metrics`; `failureFields` follow them. */
  readonly metrics: readonly string[];
  /**
   * Fields of the call; in a header the options follow, then a source and then a number of every row input, then one dtype and then one row
   * stride (elements) of every operand.
   */
  readonly header: readonly string[];
  readonly operands: readonly string[];
  /** What evaluate answers. */
  readonly statuses: readonly string[];
  readonly failureTensors: readonly string[];
  readonly failureFields: readonly string[];
}

/** What an objective reads. */
export interface NativeTraits {
  /** How many weights the clip looks at in a row: 0, 1 (of the pair) or 2 (of the branches). With weights come mask, clip and their options. */
  readonly weights: number;
  /** Whether it reads the reference, or its error. */
  readonly reference: boolean;
  /** Whether its logit goes through the link. */
  readonly link: boolean;
  /** Whether it needs the drift, and with it reference tensors. */
  readonly drift: boolean;
  /** The row inputs that it uses. */
  readonly rowInputs: readonly string[];
}

/** The processor. @inline */
export interface NativeCpuDevice {
  readonly name: 'cpu';
  readonly type: 'cpu';
  /** Default number of threads: the processors this process may use, or SDPO_NUM_THREADS. */
  readonly threads: number;
  /** 'baseline', 'avx2' or 'avx512'. */
  readonly instructionSet: string;
}

/** A GPU. @inline */
export interface NativeCudaDevice {
  /** 'cuda:0', 'cuda:1', … */
  readonly name: `cuda:${number}`;
  readonly type: 'cuda';
  /** e.g. 'NVIDIA H200'. */
  readonly model: string;
  /** e.g. '9.0'. */
  readonly computeCapability: string;
  /** Bytes. */
  readonly totalMemory: number;
  readonly multiprocessors: number;
  /** The newest CUDA version that the installed driver supports, and the one this build was made with, e.g. '13.0'. */
  readonly driverVersion: string;
  readonly runtimeVersion: string;
}

export interface NativeCudaSupport {
  /** Whether this build has the CUDA backend. */
  readonly built: boolean;
  readonly runtimeVersion: string | null;
  /** null without a driver. */
  readonly driverVersion: string | null;
  /** Why CUDA, or one of its devices, cannot be used; null where it can. */
  readonly reason: string | null;
}

/** A failure of a device, from which the function given to onDeviceError makes an error. */
export interface NativeDeviceFailure {
  message: string;
  /** Empty where it is the host that has no memory for a call. */
  cudaCode: string;
  operation: string;
  device: string;
  shapes: string;
  contextLost: boolean;
  outOfMemory: boolean;
}

/**
 * Arguments of evaluate, in order; operands that a call does not have are null. `lists` holds the lists of numbers per row one behind the
 * other. Row outputs and metrics are arrays, or both addresses on the device of the operands (metrics without the failure fields): `evaluate` then
 * enqueues and returns, and numbers per row may lie on the device.
 */
export type EvaluateArguments<Scalars extends Float64Array | bigint = Float64Array> = [
  header: Float64Array,
  lists: Float64Array | null,
  rowOutputs: Scalars,
  metrics: Scalars,
  policyChosen: NativeMemory | null,
  referenceChosen: NativeMemory | null,
  targetChosen: NativeMemory | null,
  gradientChosen: NativeMemory | null,
  policyRejected: NativeMemory | null,
  referenceRejected: NativeMemory | null,
  targetRejected: NativeMemory | null,
  gradientRejected: NativeMemory | null,
  /** Of both branches where those of rejected are null. */
  elementWeights: NativeMemory | null,
  elementWeightsRejected: NativeMemory | null,
  /** Int32Array of one element: non-zero asks the call to stop; polled between spans of a row. On a device: looked at when the call ends. */
  abort: Int32Array | null,
  /** Of the device: a stream's handle; null is the default stream. */
  stream: bigint | null,
];

export interface Binding {
  readonly tables: NativeTables;
  /** By objective. */
  readonly traits: { readonly [objective: string]: NativeTraits };
  /** What the numbers per row are where a call has none, in the order of `tables.rowInputs`. */
  readonly rowDefaults: readonly number[];
  /** Runs the passes that the header asks for and answers the index of a status. */
  evaluate(...args: EvaluateArguments | EvaluateArguments<bigint>): number;
  /** Makes room for every call on such arguments in the workspace of their stream, so that none allocates. On the host there is nothing to do. */
  reserve(...args: EvaluateArguments<bigint>): void;
  /** Whether memory stays where it is while `evaluateAsync` works on it, whoever takes it from its array meanwhile. */
  readonly sharesMemory: boolean;
  /**
   * The same on a pool thread; arrays, and with `sharesMemory` their memory, are kept until the promise settles. On a device: enqueues and returns, and no thread of the pool
   * waits; memory of the device has to stay until the promise settles.
   */
  evaluateAsync(...args: EvaluateArguments): Promise<number>;
  /** out[row, :] = a[row] x[row, :] + b[row] y[row, :] in float64, rounded once to the common dtype; `out` is contiguous. */
  combine(
    rows: number,
    size: number,
    dtype: number,
    a: Float64Array,
    b: Float64Array,
    x: NativeMemory,
    xStride: number,
    y: NativeMemory,
    yStride: number,
    out: NativeMemory,
    threads: number,
    device?: NativeLocation,
    stream?: bigint | null,
  ): void;
  /** Philox4x32-10 under (seedLow, seedHigh) from element `offset` on: normals in `dtype`, or raw words into a Uint32Array. */
  noise(
    seedLow: number,
    seedHigh: number,
    offset: number,
    out: NativeMemory | Uint32Array,
    dtype: number,
    words: boolean,
    threads: number,
    device?: NativeLocation,
    stream?: bigint | null,
    /** Elements of a device's `out`. */
    count?: number,
  ): void;
  /** Memory that `keepResult` kept and nobody holds any more, with whatever was written there; undefined where there is none of that size. */
  takeResult(bytes: number): ArrayBuffer | undefined;
  /** Keeps the memory of a new result for others, once nobody holds it; without `sharesMemory`, and beyond `bound` bytes in all, nothing. */
  keepResult(buffer: ArrayBuffer, bound: number): void;
  /** Gives back what was kept and not used since the last sweep; whether anything is left. */
  sweepResults(): boolean;
  /** Bytes that are kept, in all threads. */
  keptResults(): number;
  /** The CPU, then the CUDA devices that this build and this machine can use. */
  devices(): [NativeCpuDevice, ...NativeCudaDevice[]];
  cuda(): NativeCudaSupport;
  /** Registers what failures of devices, and a host without memory, are thrown and rejected as. */
  onDeviceError(make: (failure: NativeDeviceFailure) => Error): void;

  // The rest throws in a build without CUDA. `device` is never the host.

  /** `zero` fills the memory with zeros, which are there for every stream. */
  deviceAllocate(device: NativeLocation, bytes: number, zero: boolean): NativeOwner;
  /**
   * `rows` runs of `width` bytes, `toStride` and `fromStride` bytes apart; arrays are host memory, bigints addresses on a device. Starts after
   * what is on `stream`, and returns when the bytes have arrived.
   */
  deviceCopy(
    device: NativeLocation,
    rows: number,
    width: number,
    to: NativeMemory,
    toStride: number,
    from: NativeMemory,
    fromStride: number,
    stream: bigint | null,
  ): void;
  /** The address of owned memory, or the handle of an owned stream or graph; 0n once it was freed. */
  ownedHandle(owner: NativeOwner): bigint;
  /** Frees what is owned, after the work that uses it; never throws, and again is harmless. */
  ownedFree(owner: NativeOwner): void;
  streamCreate(device: NativeLocation): NativeOwner;
  /** For a stream that somebody else owns: waits for it and frees what was cached for it; never throws. */
  streamRelease(device: NativeLocation, stream: bigint): void;
  streamSynchronize(device: NativeLocation, stream: bigint): void;
  /** From now on what is put on the stream is recorded and does not run, up to `captureEnd`, which gives the graph. */
  captureBegin(device: NativeLocation, stream: bigint): void;
  captureEnd(device: NativeLocation, stream: bigint): NativeOwner;
  /** Puts a graph on a stream: that of its capture, whose workspace it uses. */
  graphLaunch(device: NativeLocation, graph: bigint, stream: bigint): void;
  /** What is put on `stream` from now on starts after what is on `other` now. */
  streamWait(device: NativeLocation, stream: bigint, other: bigint): void;
}
