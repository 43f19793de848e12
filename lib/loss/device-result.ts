/** Results that stay in device memory: one block of float64 numbers with a named view of each, and the way back to the host. */
/// <reference lib="esnext.disposable" preserve="true" />

import { METRIC_OFFSET, ROW_OUTPUT, ROW_OUTPUT_COUNT } from '../native/contract.js';
import { METRICS, type MetricName, ROW_STATISTICS, type RowStatistic } from '../native/names.js';
import { checkOptions, failType, failValue } from '../native/validate.js';
import { DeviceMemory } from '../tensor/device-memory.js';
import type { Stream } from '../tensor/stream.js';
import { placeOf, Tensor } from '../tensor/tensor.js';
import { type Gradients, ResultBuffers, type Statistics } from './result.js';

const BYTES = Float64Array.BYTES_PER_ELEMENT;
/** The loss of the batch, then METRICS. */
const METRIC_COUNT = METRIC_OFFSET + METRICS.length;

/** Coefficients A and B of a branch on its device, float64 [rows]. */
export interface DeviceBranchCoefficients {
  readonly a: Tensor;
  readonly b: Tensor;
}

/** What `PreferenceLoss.gradients` forms the gradient from without leaving the device. */
export interface DeviceCoefficients {
  readonly chosen: DeviceBranchCoefficients;
  readonly rejected: DeviceBranchCoefficients;
}

/**
 * What `evaluate` with `results: 'device'` and `gradients: false` gives: tensors of float64 on the device of the batch, which hold the numbers once the
 * stream of the call has come so far. Reading one (`toHost`) waits for that; calls of this package that use one need not.
 */
export interface DeviceStatistics {
  /** Loss of the batch, [1]: sum over rows (removed rows included) divided by the denominator. */
  readonly loss: Tensor;
  /** One tensor [rows] per statistic. */
  readonly rows: { readonly [K in RowStatistic]: Tensor };
  /** One tensor [1] per metric; `nonFiniteRows` tells whether all went well. */
  readonly metrics: { readonly [K in MetricName]: Tensor };
  readonly coefficients: DeviceCoefficients;
  /** All of it as one tensor [n], of which the others are views: one copy takes everything. */
  readonly packed: Tensor;
  /** Waits for the call and gives its numbers as a call with results on the host does, by one copy; `options.stream` as in `Tensor.toHost`. */
  toHost(options?: { stream?: Stream }): Statistics;
  /** Frees `packed`, and ends its views; gradients are tensors of their own. */
  dispose(): void;
  [Symbol.dispose](): void;
}

/** What `evaluate` with `results: 'device'` gives. */
export interface DeviceEvaluation<C extends Tensor = Tensor, R extends Tensor = Tensor> extends DeviceStatistics {
  readonly gradients: Gradients<C, R>;
}

/** The block of memory behind such a result: row outputs [fields, rows], loss and metrics. */
export class DeviceResult implements DeviceStatistics {
  readonly packed: Tensor;
  gradients: Gradients | undefined;
  readonly #memory: DeviceMemory;
  readonly #count: number;
  #loss: Tensor | undefined;
  #rows: DeviceStatistics['rows'] | undefined;
  #metrics: DeviceStatistics['metrics'] | undefined;
  #coefficients: DeviceCoefficients | undefined;

  constructor(device: string, count: number) {
    this.#count = count;
    const outputs = ROW_OUTPUT_COUNT * count + METRIC_COUNT;
    this.#memory = DeviceMemory.allocate(device, outputs * BYTES, false);
    this.packed = Tensor.onDevice(this.#memory, [outputs], 'float64');
  }

  get loss(): Tensor {
    this.#loss ??= this.#view(ROW_OUTPUT_COUNT * this.#count, 1);
    return this.#loss;
  }

  get rows(): DeviceStatistics['rows'] {
    this.#rows ??= Object.freeze(
      Object.fromEntries(ROW_STATISTICS.map((name) => [name, this.#column(name)])) as { [K in RowStatistic]: Tensor },
    );
    return this.#rows;
  }

  get metrics(): DeviceStatistics['metrics'] {
    const first = ROW_OUTPUT_COUNT * this.#count + METRIC_OFFSET;
    this.#metrics ??= Object.freeze(
      Object.fromEntries(METRICS.map((name, i) => [name, this.#view(first + i, 1)])) as { [K in MetricName]: Tensor },
    );
    return this.#metrics;
  }

  get coefficients(): DeviceCoefficients {
    if (this.#coefficients === undefined) {
      this.#coefficients = Object.freeze({
        chosen: Object.freeze({ a: this.#column('aChosen'), b: this.#column('bChosen') }),
        rejected: Object.freeze({ a: this.#column('aRejected'), b: this.#column('bRejected') }),
      });
      owners.set(this.#coefficients, this);
    }
    return this.#coefficients;
  }

  toHost(options: { stream?: Stream } = {}): Statistics {
    options = checkOptions('options', options, ['stream']);
    const numbers = this.packed.toHost(options) as Float64Array;
    const out = new ResultBuffers(this.#count);
    const { rowOutputs, metrics } = ResultBuffers.raw(out);
    rowOutputs.set(numbers.subarray(0, rowOutputs.length));
    metrics.set(numbers.subarray(rowOutputs.length));
    return out.finish();
  }

  dispose(): void {
    this.packed.dispose();
  }

  [Symbol.dispose](): void {
    this.dispose();
  }

  #view(first: number, length: number): Tensor {
    return Tensor.within(this.#memory, first * BYTES, [length], 'float64');
  }

  #column(name: keyof typeof ROW_OUTPUT): Tensor {
    return this.#view(ROW_OUTPUT[name] * this.#count, this.#count);
  }

  /** @internal */
  static raw(result: DeviceResult): {
    memory: DeviceMemory;
    rowOutputs: bigint;
    metrics: bigint;
  } {
    const memory = result.#memory;
    const at = (first: number) => memory.address + BigInt(first * BYTES);
    const outputs = ROW_OUTPUT_COUNT * result.#count;
    return { memory, rowOutputs: at(0), metrics: at(outputs) };
  }

  /** @internal Its rows, where it lives. */
  static count(result: DeviceResult): { rows: number; device: string } {
    return { rows: result.#count, device: result.#memory.device };
  }

  /** @internal The result whose coefficients these are. */
  static owning(coefficients: unknown): DeviceResult | undefined {
    return typeof coefficients === 'object' && coefficients !== null ? owners.get(coefficients) : undefined;
  }
}

const owners = new WeakMap<object, DeviceResult>();

/** `call.into` of a call whose results stay on the device. */
export function reuseOnDevice(into: unknown, rows: number, device: string): DeviceResult {
  if (!(into instanceof DeviceResult)) failType('call.into', "a result of evaluate with results 'device'", into);
  placeOf(into.packed, 'call.into');
  const found = DeviceResult.count(into);
  if (found.rows !== rows || found.device !== device) {
    failValue(
      'call.into',
      `a result of ${rows} rows on ${device}`,
      `one of ${found.rows} rows on ${found.device}`,
      'ERR_SDPO_INVALID_LENGTH',
    );
  }
  return into;
}
