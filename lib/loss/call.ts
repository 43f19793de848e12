/** One call of the addon's loss: its arguments, how it runs on the host and on devices, and the error that its status stands for. */

import { setImmediate } from 'node:timers/promises';
import type { EvaluateArguments } from '../../binding.js';
import { binding } from '../native/binding.js';
import { FAILURE_FIELD, FAILURE_OFFSET, HEADER, OPERAND, PASS } from '../native/contract.js';
import { AbortError, NonFiniteError, SdpoError } from '../native/errors.js';
import { FAILURE_TENSORS, STATUSES, type Status } from '../native/names.js';
import { failValue } from '../native/validate.js';
import { locationOf } from '../tensor/device.js';
import { type Access, enlist, type Lane } from '../tensor/device-memory.js';
import { type LatentArray, type Operand, readOperand } from '../tensor/operand.js';
import { laneOf, Stream } from '../tensor/stream.js';
import { BRANCHES, type Scalars } from './columns.js';
import { DeviceResult } from './device-result.js';
import { disposeGradients } from './gradients.js';
import { type Prepared, writeOperand } from './prepare.js';
import { type Gradients, ResultBuffers } from './result.js';

/** A checked call that has not begun. */
export interface PendingCall {
  readonly result: ResultBuffers;
  readonly scalars: Scalars;
  readonly args: EvaluateArguments;
  readonly lane: Lane;
  readonly stream: Stream | undefined;
  /** Memory of a device that the call reads and writes. */
  readonly accesses: readonly Access[];
  /** Gradients made for this call, which go when it fails. */
  readonly fresh: Gradients | undefined;
}

/** A checked call that nobody will wait for. */
export interface EnqueuedCall {
  readonly args: EvaluateArguments<bigint>;
  readonly lane: Lane;
  readonly accesses: readonly Access[];
}

/** Lays out the arguments of the native call; gradient operands are added to the header here. */
export function layOut(
  prepared: Prepared,
  result: ResultBuffers,
  passes: number,
  gradients?: Gradients,
  fresh = false,
): PendingCall {
  const { rowOutputs, metrics } = ResultBuffers.raw(result);
  const { args, lane, accesses } = partsOf(prepared, rowOutputs, metrics, passes, gradients);
  const { scalars, stream } = prepared;
  return { result, scalars, args, lane, stream, accesses, fresh: fresh ? gradients : undefined };
}

/** The same for a call whose results stay on the device. */
export function layOutOnDevice(
  prepared: Prepared,
  result: DeviceResult,
  passes: number,
  gradients?: Gradients,
): EnqueuedCall {
  const { memory, rowOutputs, metrics } = DeviceResult.raw(result);
  const { args, lane, accesses } = partsOf(prepared, rowOutputs, metrics, passes, gradients);
  const reads = prepared.memories.map((memory) => ({ memory, writes: false }));
  return { args, lane, accesses: [...accesses, ...reads, { memory, writes: true }] };
}

/** A gradient pass alone, from coefficients that an earlier call left on the device. */
export function layOutGradients(prepared: Prepared, result: DeviceResult, gradients: Gradients): EnqueuedCall {
  const { memory, rowOutputs, metrics } = DeviceResult.raw(result);
  const { args, lane, accesses } = partsOf(prepared, rowOutputs, metrics, PASS.gradients, gradients);
  return { args, lane, accesses: [...accesses, { memory, writes: false }] };
}

function partsOf<T extends Float64Array | bigint>(
  prepared: Prepared,
  rowOutputs: T,
  metrics: T,
  passes: number,
  gradients: Gradients | undefined,
): Pick<PendingCall, 'lane' | 'accesses'> & { readonly args: EvaluateArguments<T> } {
  const { operands, device, stream } = prepared;
  const { header, lists } = prepared.scalars;
  header[HEADER.passes] = passes;
  const chosen = gradientOperand('gradients.chosen', OPERAND.gradientChosen, gradients?.chosen, prepared);
  const rejected = gradientOperand('gradients.rejected', OPERAND.gradientRejected, gradients?.rejected, prepared);
  const lane = laneOf(stream, 'call.stream');
  const args: EvaluateArguments<T> = [
    header,
    lists,
    rowOutputs,
    metrics,
    operands.policyChosen?.data ?? null,
    operands.referenceChosen?.data ?? null,
    operands.targetChosen?.data ?? null,
    chosen?.data ?? null,
    operands.policyRejected?.data ?? null,
    operands.referenceRejected?.data ?? null,
    operands.targetRejected?.data ?? null,
    rejected?.data ?? null,
    operands.elementWeights?.data ?? null,
    operands.elementWeightsRejected?.data ?? null,
    null,
    device === 'cpu' ? null : lane.handle,
  ];
  const accesses =
    device === 'cpu'
      ? NOTHING
      : [...accessesOf(Object.values(operands), false), ...accessesOf([chosen, rejected], true)];
  return { args, lane, accesses };
}

function gradientOperand(
  argument: string,
  position: number,
  gradient: LatentArray | undefined,
  { scalars, rows }: Prepared,
): Operand | undefined {
  if (gradient === undefined) return undefined;
  const operand = readOperand(argument, gradient, rows);
  writeOperand(scalars.header, position, operand);
  return operand;
}

const NOTHING: readonly Access[] = [];
const ABORT_ARGUMENT = 14;

function accessesOf(operands: readonly (Operand | undefined)[], writes: boolean): Access[] {
  return operands.flatMap((operand) => (operand?.memory === undefined ? [] : [{ memory: operand.memory, writes }]));
}

/** Runs a call to its end. */
export function run(call: PendingCall): void {
  enlist(call.lane, call.accesses);
  const status = binding.evaluate(...call.args);
  settle(call);
  checkStatus(STATUSES[status]!, call.result);
}

/** Puts a call on its stream and returns: nobody waits, and what it uses is freed by CUDA after the work that uses it. */
export function enqueue({ lane, accesses, args }: EnqueuedCall): void {
  enlist(lane, accesses);
  binding.evaluate(...args);
}

/** Makes room on its stream for a call that is put there later. */
export function reserve({ args }: EnqueuedCall): void {
  binding.reserve(...args);
}

/** Runs a call off the event loop. What it uses stays until it is over, whoever disposes it meanwhile. */
export async function runAsync(call: PendingCall, signal: AbortSignal | undefined): Promise<void> {
  const args = call.args.map((value, i) => stable(value, INPUTS.has(i))) as EvaluateArguments;
  const bytes = outputBytes(args);
  const flag = signal === undefined ? null : new Int32Array(1);
  args[ABORT_ARGUMENT] = flag;
  const onAbort = () => Atomics.store(flag!, 0, 1);
  const used = [
    ...call.accesses.map(({ memory }) => memory),
    ...(call.stream ? [Stream.parts(call.stream).leased] : []),
  ];
  signal?.addEventListener('abort', onAbort, { once: true });
  for (const resource of used) resource.retain();
  try {
    enlist(call.lane, call.accesses);
    const status = await (runAtOnce(call, args, flag) ?? runElsewhere(args));
    checkStatus(status, call.result, signal);
    if (outputBytes(args) !== bytes) {
      failValue(
        'call.into',
        'a result whose buffers stay where they are until the promise settles',
        'one whose buffers were transferred',
        'ERR_SDPO_INVALID_LENGTH',
      );
    }
  } finally {
    for (const resource of used) resource.release();
    signal?.removeEventListener('abort', onAbort);
  }
}

function outputBytes(args: EvaluateArguments): number {
  return OUTPUTS.reduce((sum, i) => sum + ((args[i] as Partial<Float64Array> | null)?.byteLength ?? 0), 0);
}

/**
 * Elements (rows · D) on the host that are made where they are in a turn of the event loop, in one call or in several: up to a tenth of a millisecond of
 * work. On another thread the result comes as much later, since two sleeping threads have to be woken, the tensors lie in the caches of another
 * processor, and the promise, the references and the waking hold the event loop for 12 to 25 µs as well.
 */
const MADE_AT_ONCE = 131072;

/** Of calls that were made at once and have not settled. */
let unsettled = 0;

/**
 * Makes a call where it is, and settles in another turn of the event loop, as a call on another thread would: nothing is held up by a loop of such
 * calls. Undefined where the call is too long for that, or others have filled the turn.
 */
function runAtOnce(
  call: PendingCall,
  args: EvaluateArguments,
  aborted: Int32Array | null,
): Promise<Status> | undefined {
  const { header } = call.scalars;
  const elements = header[HEADER.rows]! * header[HEADER.size]!;
  if (header[HEADER.device] !== locationOf('cpu') || elements > MADE_AT_ONCE - unsettled) return undefined;
  const status = STATUSES[binding.evaluate(...args)]!;
  unsettled += elements;
  return setImmediate().then(() => {
    unsettled -= elements;
    return aborted?.[0] === 1 ? 'aborted' : status;
  });
}

async function runElsewhere(args: EvaluateArguments): Promise<Status> {
  return STATUSES[await binding.evaluateAsync(...args)]!;
}

/** After a call that waited for its stream. */
function settle({ lane, accesses }: PendingCall): void {
  for (const { memory } of accesses) memory.settle(lane);
}

/** What a failed call leaves behind: the error, and no gradients in the memory of a device. */
export function abandoned(call: PendingCall, error: unknown): unknown {
  if (call.fresh !== undefined) {
    call.result.gradients = undefined;
    disposeGradients(call.fresh);
  }
  return error;
}

/** Turns the status of a native call into the error it stands for. */
function checkStatus(status: Status, result: ResultBuffers, signal?: AbortSignal): void {
  if (status === 'ok') return;
  const { metrics } = ResultBuffers.raw(result);
  const field = (name: keyof typeof FAILURE_FIELD) => metrics[FAILURE_OFFSET + FAILURE_FIELD[name]]!;
  switch (status) {
    case 'non_finite':
      throw new NonFiniteError(
        field('row'),
        BRANCHES[field('branch')]!,
        FAILURE_TENSORS[field('tensor')]!,
        field('element'),
      );
    case 'element_weights':
      throw new SdpoError(
        'ERR_SDPO_ELEMENT_WEIGHTS',
        `Expected batch.elementWeights to be finite, >= 0 and of positive sum in every row, received weights in row ${field('row')} that are not`,
      );
    case 'aborted':
      throw new AbortError(signal?.reason);
    case 'out_of_memory':
      throw new SdpoError(
        'ERR_SDPO_OUT_OF_MEMORY',
        'Expected enough memory for the scratch space of a call, received none',
      );
    default:
      throw new SdpoError('ERR_SDPO_DEVICE', `The device failed (${status})`);
  }
}

const FIRST_OPERAND = 4;
/** Arguments that a call reads, and those that it writes and an earlier result may have shown to its caller. */
const INPUTS = new Set(operandArguments(false));
const OUTPUTS = [2, 3, ...operandArguments(true)];

function operandArguments(gradients: boolean): number[] {
  const names = Object.entries(OPERAND).filter(([name]) => name.startsWith('gradient') === gradients);
  return names.map(([, position]) => FIRST_OPERAND + position);
}

/** Memory that another thread can work on: that of a resizable buffer can be taken away from it, and any where the addon has no share in it; a copy cannot. */
function stable<T>(array: T, isInput: boolean): T {
  if (!ArrayBuffer.isView(array) || array.buffer instanceof SharedArrayBuffer) return array;
  const { resizable } = array.buffer as ArrayBuffer & { resizable?: boolean };
  if (!resizable && (binding.sharesMemory || !isInput)) return array;
  return (array as unknown as Float64Array).slice() as unknown as T;
}

/** The error with the stack of the call that started the work, since the stack of a settled promise leads nowhere. */
export function withStack(error: unknown, stack: string | undefined): unknown {
  const frames = stack?.indexOf('\n') ?? -1; // none where Error.stackTraceLimit is 0
  if (error instanceof Error && frames >= 0) error.stack = `${error.name}: ${error.message}${stack!.slice(frames)}`;
  return error;
}
