/** The native contract: every export of the addon and nothing else. Callers in lib/ have checked all arguments; the addon re-checks lengths and types. */

/** Element storage: Float64Array for float64, Float32Array for float32, Uint16Array (bits) for float16 and bfloat16. */
export type NativeArray = Float64Array | Float32Array | Uint16Array;

/** Closed lists and field layouts, in the order of their numbers. */
export interface NativeTables {
  readonly dtypes: readonly string[];
  readonly objectives: readonly string[];
  readonly links: readonly string[];
  readonly pairWeights: readonly string[];
  readonly weightRatios: readonly string[];
  readonly scopes: readonly string[];
  readonly nonFinite: readonly string[];
  /** Fields of `rowInputs`, a Float64Array [fields, rows]. */
  readonly rowInputs: readonly string[];
  /** Fields of `rowOutputs`, a Float64Array [fields, rows]. */
  readonly rowOutputs: readonly string[];
  /** Fields of `metrics`; `failureFields` follow them. */
  readonly metrics: readonly string[];
  /** Fields of `header`; then one dtype and one row stride (elements) per operand. */
  readonly header: readonly string[];
  readonly operands: readonly string[];
  /** What evaluate answers. */
  readonly statuses: readonly string[];
  readonly failureTensors: readonly string[];
  readonly failureFields: readonly string[];
}

export interface NativeCpuDevice {
  readonly name: 'cpu';
  readonly type: 'cpu';
  /** Default number of threads: the cores this process may use, or SDPO_NUM_THREADS. */
  readonly threads: number;
  /** 'baseline', 'avx2' or 'avx512'. */
  readonly instructionSet: string;
}

/** Arguments of evaluate, in order; operands may be null where `tables.operands` says they are optional. */
export type EvaluateArguments = [
  header: Float64Array,
  rowInputs: Float64Array,
  rowOutputs: Float64Array,
  metrics: Float64Array,
  policyChosen: NativeArray | null,
  referenceChosen: NativeArray | null,
  targetChosen: NativeArray | null,
  gradientChosen: NativeArray | null,
  policyRejected: NativeArray | null,
  referenceRejected: NativeArray | null,
  targetRejected: NativeArray | null,
  gradientRejected: NativeArray | null,
  elementWeights: NativeArray | null,
  /** Int32Array of one element: non-zero asks the call to stop; polled between spans of a row. */
  abort: Int32Array | null,
];

export interface Binding {
  readonly tables: NativeTables;
  /** Runs the passes that the header asks for and answers the index of a status. */
  evaluate(...args: EvaluateArguments): number;
  /** The same on a pool thread; arrays are kept alive until the promise settles. */
  evaluateAsync(...args: EvaluateArguments): Promise<number>;
  /** out[row, :] = a[row] x[row, :] + b[row] y[row, :] in float64, rounded once to the common dtype; `out` is contiguous. */
  combine(
    rows: number,
    size: number,
    dtype: number,
    a: Float64Array,
    b: Float64Array,
    x: NativeArray,
    xStride: number,
    y: NativeArray,
    yStride: number,
    out: NativeArray,
    threads: number,
  ): void;
  /** Philox4x32-10 under (seedLow, seedHigh) from element `offset` on: normals in `dtype`, or raw words into a Uint32Array. */
  noise(
    seedLow: number,
    seedHigh: number,
    offset: number,
    out: NativeArray | Uint32Array,
    dtype: number,
    words: boolean,
    threads: number,
  ): void;
  devices(): NativeCpuDevice[];
}
