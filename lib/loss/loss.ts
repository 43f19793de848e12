/** The preference loss: checks a batch, makes one native call, and gives loss, gradients, statistics and metrics. */

import { PASS } from '../native/contract.js';
import { AbortError, SdpoRangeError } from '../native/errors.js';
import {
  checkBoolean,
  checkNumbers,
  checkOptions,
  checkSignal,
  type Fields,
  failType,
  failValue,
  readOptions,
} from '../native/validate.js';
import type { LatentArray } from '../tensor/operand.js';
import type { Stream } from '../tensor/stream.js';
import { placeOf, type Tensor } from '../tensor/tensor.js';
import type { Batch, DeviceBatch, ElementWeights } from './batch.js';
import {
  abandoned,
  type EnqueuedCall,
  enqueue,
  layOut,
  layOutGradients,
  layOutOnDevice,
  type PendingCall,
  reserve,
  run,
  runAsync,
  withStack,
} from './call.js';
import {
  ASYNC_CALL_FIELDS,
  type AsyncCallOptions,
  CALL_FIELDS,
  type CallOptions,
  type CoefficientInput,
  type DeviceCallOptions,
  OBJECTIVE_FIELDS,
  type ObjectiveNumbers,
  RESERVE_FIELDS,
  type ReserveOptions,
  readCall,
} from './call-options.js';
import { BRANCHES, type Scalars } from './columns.js';
import {
  type DeviceCoefficients,
  type DeviceEvaluation,
  DeviceResult,
  type DeviceStatistics,
  reuseOnDevice,
} from './device-result.js';
import { refuseCross } from './element-weights.js';
import { allocateGradients, disposeGradients, reusedGradients } from './gradients.js';
import { type Moments, momentsOf, type RowElements, readMoments, writeElements, writeMoments } from './moments.js';
import { type PreferenceLossOptions, type ResolvedOptions, resolveOptions } from './options.js';
import { fix, type Prepared, prepare, prepareObjective } from './prepare.js';
import { type Evaluation, type Gradients, ResultBuffers, type Statistics } from './result.js';

/**
 * Diffusion-DPO, DPO-C&M or SDPO over pairs of predictions, with the gradient with respect to both predictions. Reusable and stateless: a call
 * leaves no state that the next could notice. Mathematics: docs/mathematics.md.
 */
export class PreferenceLoss {
  /** The options with all defaults filled in. */
  readonly options: ResolvedOptions;
  readonly #fixed: Float64Array;
  /** Those of an earlier call, written again by the next: one that is under way has its own. */
  #scalars: Scalars | undefined;

  /** @throws TypeError or RangeError with code ERR_SDPO_… for a wrong, unknown or unused option. */
  constructor(options: PreferenceLossOptions) {
    this.options = resolveOptions(options);
    this.#fixed = fix(this.options);
  }

  /**
   * Loss, gradients, row statistics and metrics of one batch, in one native call on the calling thread and its helpers.
   *
   * With `results: 'device'` everything stays on the device of the batch, where numbers per row may lie as well (timesteps of a variance-preserving
   * schedule then index a table of ω there): the call enqueues its work and returns, and nothing waits for the device. As nobody looks at
   * the results before they are used, such a loss needs `nonFinite` 'skip' or 'propagate'; a row whose element weights are
   * wrong has the gradient NaN, and a failure of the device shows in a later call.
   * @throws TypeError or RangeError for wrong arguments; NonFiniteError with `nonFinite: 'throw'`; SdpoError ERR_SDPO_ELEMENT_WEIGHTS where the
   *   element weights of a row are negative or sum to 0.
   */
  evaluate<C extends Tensor, R extends Tensor>(
    batch: DeviceBatch<C, R>,
    call: DeviceCallOptions & { gradients: false },
  ): DeviceStatistics;
  evaluate<C extends Tensor, R extends Tensor>(
    batch: DeviceBatch<C, R>,
    call: DeviceCallOptions,
  ): DeviceEvaluation<C, R>;
  evaluate<C extends LatentArray, R extends LatentArray>(
    batch: Batch<C, R>,
    call: CallOptions & { gradients: false },
  ): Statistics;
  evaluate<C extends LatentArray, R extends LatentArray>(batch: Batch<C, R>, call?: CallOptions): Evaluation<C, R>;
  evaluate(batch: Batch | DeviceBatch, call: CallOptions | DeviceCallOptions = {}): Statistics | DeviceStatistics {
    const read = readCall(call, CALL_FIELDS as Fields<CallOptions | DeviceCallOptions>);
    return read.results === 'device'
      ? this.#enqueue(batch as DeviceBatch, read, enqueue)
      : this.#run(batch as Batch, read as CallOptions);
  }

  /**
   * What `evaluate` with `results: 'device'` gives, before any call has written it, and everything else that such a call needs: room in the workspace
   * of its stream, and the table of ω of its schedule. `evaluate` with this result as `into` then allocates nothing, and may be recorded
   * into a `Graph`. Arguments are those of that call; with `into` the workspace alone is new.
   * @throws as `evaluate` does.
   */
  reserve<C extends Tensor, R extends Tensor>(
    batch: DeviceBatch<C, R>,
    call: ReserveOptions & { gradients: false },
  ): DeviceStatistics;
  reserve<C extends Tensor, R extends Tensor>(batch: DeviceBatch<C, R>, call?: ReserveOptions): DeviceEvaluation<C, R>;
  reserve(batch: DeviceBatch, call: ReserveOptions = {}): DeviceStatistics {
    return this.#enqueue(batch, { ...readCall(call, RESERVE_FIELDS), results: 'device' }, reserve);
  }

  #run(batch: Batch, call: CallOptions): Statistics {
    const pending = this.#prepare(batch, call);
    try {
      run(pending);
    } catch (error) {
      throw abandoned(pending, error);
    }
    return this.#finished(pending);
  }

  /**
   * The same result off the event loop. The arrays of the batch must not be written until the promise settles, or its numbers are of no
   * use. A buffer that is transferred meanwhile leaves the call what it was given, as long as its new owner does not write either: the call has a
   * share in their memory (Node 20 to 26), and copies what it reads elsewhere and from resizable buffers. The buffers of `into` must not
   * be transferred (ERR_SDPO_INVALID_LENGTH), and on Node 21 to 23 none by `transfer(length)` to another length, which ends the process. Rejects as `evaluate` throws, with the caller's stack, and with an AbortError once `signal` is aborted. On
   * a device no thread waits, a tensor may be disposed meanwhile, and an aborted call rejects when the device is done with it.
   */
  evaluateAsync<C extends LatentArray, R extends LatentArray>(
    batch: Batch<C, R>,
    call: AsyncCallOptions & { gradients: false },
  ): Promise<Statistics>;
  evaluateAsync<C extends LatentArray, R extends LatentArray>(
    batch: Batch<C, R>,
    call?: AsyncCallOptions,
  ): Promise<Evaluation<C, R>>;
  async evaluateAsync(batch: Batch, given: AsyncCallOptions = {}): Promise<Statistics> {
    const trace: { stack?: string } = {};
    Error.captureStackTrace(trace, this.evaluateAsync);
    const call = readCall(given, ASYNC_CALL_FIELDS);
    if ((call as { results?: unknown }).results === 'device') {
      throw new SdpoRangeError(
        'ERR_SDPO_INVALID_OPTION',
        "Expected call.results to be 'host' in evaluateAsync, since evaluate with results 'device' waits for nothing anyway, received \"device\"",
      );
    }
    const pending = this.#prepare(batch, call);
    const signal = call.signal;
    try {
      if (signal !== undefined) checkSignal('call.signal', signal);
      if (signal?.aborted) throw new AbortError(signal.reason);
      pending.result.pending = true;
      await runAsync(pending, signal);
    } catch (error) {
      throw withStack(abandoned(pending, error), trace.stack);
    } finally {
      pending.result.pending = false;
    }
    return this.#finished(pending);
  }

  /**
   * First pass alone: the moments m, δ, q of every row over the elements of the batch, for statistics that need a barrier before the gradient, and for
   * rows that are cut into parts ({@link combineMoments}). Numbers per row are not read, but for `referenceError`. Throws as `evaluate` does.
   *
   * @param call `cross`: x = mean d_c d_r as well; default: where the loss has a `safeguard`. `stream`: of the device that holds the tensors
   */
  moments(
    batch: Batch & { elementWeights?: ElementWeights },
    call?: { cross?: boolean; stream?: Stream },
  ): Moments<Float64Array>;
  moments(batch: Batch, call?: { cross?: boolean; stream?: Stream }): Moments;
  moments(batch: Batch, call: { cross?: boolean; stream?: Stream } = {}): Moments {
    call = checkOptions('call', call, ['cross', 'stream']);
    const cross = checkBoolean('call.cross', call.cross ?? this.options.safeguard !== undefined);
    const prepared = prepare(batch, { stream: call.stream }, this.options, this.#fixed, 'host', false);
    if (cross) refuseCross(prepared.operands, call.cross === undefined ? 'options.safeguard' : 'call.cross');
    const result = new ResultBuffers(prepared.rows);
    run(layOut(prepared, result, PASS.moments | (cross ? PASS.cross : 0)));
    return momentsOf(result, cross, prepared.operands.elementWeightsRejected !== undefined);
  }

  /**
   * The objective alone: loss, statistics, metrics and coefficients of given moments, without a tensor.
   *
   * @param moments of the whole rows, by {@link PreferenceLoss.moments} or {@link combineMoments}
   * @param numbers the numbers per row of a batch, and of the options of a call `denominator`, `gradientScale` and `maskThreshold`
   * @throws as `evaluate`; ERR_SDPO_INVALID_OPTION where the moments lack what the options need (drift, cross)
   */
  objective(moments: Moments, numbers: ObjectiveNumbers = {}): Statistics {
    const { denominator, gradientScale, maskThreshold, ...rows } = readOptions('numbers', numbers, OBJECTIVE_FIELDS);
    const call = readCall({ denominator, gradientScale, maskThreshold }, CALL_FIELDS, 'numbers');
    const read = readMoments('moments', moments);
    const result = new ResultBuffers(read.chosen.error.length);
    writeMoments(result, read, this.options);
    const { count } = ResultBuffers.raw(result);
    run(layOut(prepareObjective(count, rows, call, this.options, this.#fixed), result, PASS.objective));
    return result.finish();
  }

  /**
   * Second pass alone: (2/D)(a d + b h) for every row, from coefficients such as `evaluate(batch, { gradients: false }).coefficients`. A row with
   * a = b = 0 is written as zeros without being read. Coefficients of a result on the device of the batch are read there, and then the call returns
   * without waiting.
   *
   * @param coefficients `b` is 0 or left out where the batch has no reference tensor
   * @param call `elements`: D (or Σe, of both branches or of each) of each whole row, where the batch has a part of its elements; default: those of the batch. `stream`: of the
   *   device that holds the tensors
   */
  gradients<C extends Tensor, R extends Tensor>(
    batch: DeviceBatch<C, R>,
    coefficients: DeviceCoefficients,
    call?: { stream?: Stream },
  ): Gradients<C, R>;
  gradients<C extends LatentArray, R extends LatentArray>(
    batch: Batch<C, R>,
    coefficients: { chosen: CoefficientInput; rejected: CoefficientInput },
    call?: { elements?: RowElements<ArrayLike<number>>; stream?: Stream },
  ): Gradients<C, R>;
  gradients(
    batch: Batch | DeviceBatch,
    coefficients: { chosen: CoefficientInput; rejected: CoefficientInput } | DeviceCoefficients,
    call: { elements?: RowElements<ArrayLike<number>>; stream?: Stream } = {},
  ): Gradients {
    call = checkOptions('call', call, ['elements', 'stream']);
    const { stream } = call;
    const onDevice = DeviceResult.owning(coefficients);
    if (onDevice !== undefined && call.elements !== undefined) {
      failValue('call.elements', 'left out where coefficients are on a device, with which they are', call.elements);
    }
    return onDevice === undefined
      ? this.#gradients(batch as Batch, coefficients as { chosen: CoefficientInput; rejected: CoefficientInput }, call)
      : enqueueGradients(prepare(batch, { stream }, this.options, this.#fixed, 'device', false), onDevice);
  }

  #gradients(
    batch: Batch,
    coefficients: { chosen: CoefficientInput; rejected: CoefficientInput },
    { elements, stream }: { elements?: RowElements<ArrayLike<number>>; stream?: Stream },
  ): Gradients {
    const prepared = prepare(batch, { stream }, this.options, this.#fixed, 'host', false);
    const result = new ResultBuffers(prepared.rows);
    if (elements !== undefined) writeElements(result, 'call.elements', elements);
    coefficients = checkOptions('coefficients', coefficients, BRANCHES);
    for (const branch of BRANCHES) {
      const { a, b } = readCoefficients(`coefficients.${branch}`, coefficients[branch], prepared.rows);
      // The coefficients of such a batch's own result have b as well: zeros.
      const drifts = b !== undefined && Array.prototype.some.call(b, (entry: number) => entry !== 0);
      if (drifts && prepared.batch[branch].reference === undefined) {
        failType(`coefficients.${branch}.b`, 'left out or all 0 where the batch has a referenceError', b);
      }
      ResultBuffers.column(result, branch === 'chosen' ? 'aChosen' : 'aRejected').set(a);
      if (b !== undefined) ResultBuffers.column(result, branch === 'chosen' ? 'bChosen' : 'bRejected').set(b);
    }
    const gradients = allocateGradients(prepared.batch);
    const pending = layOut(prepared, result, PASS.gradients, gradients, true);
    try {
      run(pending);
    } catch (error) {
      throw abandoned(pending, error);
    }
    return gradients;
  }

  #prepare(batch: Batch, call: CallOptions): PendingCall {
    const wanted = call.gradients ?? true;
    const earlier = this.#scalars;
    this.#scalars = undefined;
    const prepared = prepare(batch, call, this.options, this.#fixed, 'host', true, earlier);
    if (this.options.safeguard !== undefined) refuseCross(prepared.operands, 'options.safeguard');
    const result = call.into === undefined ? new ResultBuffers(prepared.rows) : reuse(call.into, prepared.rows);
    const reused = wanted ? reusedGradients(result, prepared.batch) : undefined;
    const gradients = wanted ? (reused ?? allocateGradients(prepared.batch)) : undefined;
    result.gradients = gradients;
    return layOut(prepared, result, this.#passes(wanted), gradients, reused === undefined);
  }

  /** The result of a call that is over: nothing reads its scalars any more. */
  #finished({ result, scalars }: PendingCall): ResultBuffers {
    this.#scalars = scalars;
    return result.finish();
  }

  #passes(gradients: boolean): number {
    const cross = this.options.safeguard === undefined ? 0 : PASS.cross;
    return PASS.moments | PASS.objective | cross | (gradients ? PASS.gradients : 0);
  }

  #enqueue(batch: DeviceBatch, call: DeviceCallOptions, start: (call: EnqueuedCall) => void): DeviceResult {
    if (this.options.nonFinite === 'throw') {
      throw new SdpoRangeError(
        'ERR_SDPO_INVALID_OPTION',
        "Expected options.nonFinite to be 'skip' or 'propagate' where call.results is 'device', since nobody looks at the results and so nothing can throw, received \"throw\"",
      );
    }
    const wanted = call.gradients ?? true;
    const prepared = prepare(batch, call, this.options, this.#fixed, 'device');
    if (this.options.safeguard !== undefined) refuseCross(prepared.operands, 'options.safeguard');
    const into = call.into === undefined ? undefined : reuseOnDevice(call.into, prepared.rows, prepared.device);
    const reused = wanted && into !== undefined ? reusedGradients(into, prepared.batch) : undefined;
    const gradients = wanted ? (reused ?? allocateGradients(prepared.batch)) : undefined;
    let result = into;
    try {
      result ??= new DeviceResult(prepared.device, prepared.rows);
      start(layOutOnDevice(prepared, result, this.#passes(wanted), gradients));
    } catch (error) {
      if (gradients !== undefined && reused === undefined) disposeGradients(gradients);
      if (into === undefined) result?.dispose();
      throw error;
    }
    result.gradients = gradients;
    return result;
  }
}

function enqueueGradients(prepared: Prepared, result: DeviceResult): Gradients {
  placeOf(result.packed, 'coefficients');
  const { rows, device } = DeviceResult.count(result);
  if (rows !== prepared.rows || device !== prepared.device) {
    failValue(
      'coefficients',
      `of ${prepared.rows} rows on ${prepared.device}`,
      `those of ${rows} rows on ${device}`,
      'ERR_SDPO_INVALID_LENGTH',
    );
  }
  const gradients = allocateGradients(prepared.batch);
  try {
    enqueue(layOutGradients(prepared, result, gradients));
  } catch (error) {
    disposeGradients(gradients);
    throw error;
  }
  return gradients;
}

function reuse(into: unknown, rows: number): ResultBuffers {
  if (!(into instanceof ResultBuffers)) failType('call.into', 'a result of evaluate or evaluateAsync', into);
  if (into.pending) failValue('call.into', 'a result that no call is writing', 'the result of a pending evaluateAsync');
  const { count } = ResultBuffers.raw(into);
  if (count !== rows)
    failValue('call.into', `a result of ${rows} rows`, `one of ${count} rows`, 'ERR_SDPO_INVALID_LENGTH');
  return into;
}

function readCoefficients(
  argument: string,
  value: unknown,
  rows: number,
): { a: ArrayLike<number>; b?: ArrayLike<number> } {
  const given = checkOptions(argument, value, ['a', 'b']);
  const a = checkNumbers(`${argument}.a`, given.a, rows);
  return given.b === undefined ? { a } : { a, b: checkNumbers(`${argument}.b`, given.b, rows) };
}
