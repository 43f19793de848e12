/** Preference pairs from memory and from any iterable. */

import { createHash } from 'node:crypto';
import { SdpoError } from '../native/errors.js';
import { checkInteger, checkOptions, failType, failValue } from '../native/validate.js';
import {
  checkIndex,
  checkNonFinite,
  checkPair,
  checkSampleShape,
  elementCount,
  type PairOptions,
} from './data-pair.js';
import type { PairDataset, PairStream, PreferencePair } from './types.js';

export interface ArrayPairOptions extends PairOptions {
  /** Shape of one sample; default: one axis, as long as the first pair's chosen sample. */
  shape?: readonly number[] | undefined;
  /** Default: a hash of ids, samples, confidences and conditions, worked out when it is first asked for. Needed where a condition is not JSON-able. */
  fingerprint?: string | undefined;
}

/**
 * Pairs that are in memory already. All of them are checked at once, and not copied.
 *
 * @param pairs at least one
 * @throws SdpoError `ERR_SDPO_DATA` that names the pair and what does not fit
 */
export function pairsFromArray<C = unknown>(
  pairs: readonly PreferencePair<C>[],
  options: ArrayPairOptions = {},
): PairDataset<C> {
  if (!Array.isArray(pairs)) failType('pairs', 'an array of preference pairs', pairs);
  if (pairs.length === 0) failValue('pairs', 'of at least one pair', pairs, 'ERR_SDPO_INVALID_LENGTH');
  options = checkOptions('options', options, ['shape', 'fingerprint', 'nonFinite']);
  const shape = checkSampleShape(options.shape ?? [pairs[0]?.chosen?.length]);
  const nonFinite = checkNonFinite(options.nonFinite);
  let fingerprint = checkFingerprint(options.fingerprint);
  const size = elementCount(shape);
  const list = [...pairs];
  for (const [i, pair] of list.entries()) checkPair(`pairs[${i}]`, pair, size, nonFinite);
  return {
    kind: 'indexed',
    length: list.length,
    shape,
    get fingerprint() {
      fingerprint ??= fingerprintOf(list, shape);
      return fingerprint;
    },
    get: (index) => list[checkIndex(index, list.length)],
  };
}

function checkFingerprint(value: unknown): string | undefined {
  if (value !== undefined && typeof value !== 'string') failType('options.fingerprint', 'a string', value);
  return value;
}

function fingerprintOf(pairs: readonly PreferencePair[], shape: readonly number[]): string {
  const hash = createHash('sha256').update(JSON.stringify(shape));
  for (const { id, chosen, rejected, condition, confidence = 1 } of pairs) {
    hash.update(JSON.stringify([id, confidence, canonical(id, condition)]));
    for (const { buffer, byteOffset, byteLength } of [chosen, rejected]) {
      hash.update(new Uint8Array(buffer, byteOffset, byteLength));
    }
  }
  return `sha256:${hash.digest('hex')}`;
}

/** A condition as JSON text; typed arrays by their bytes, which JSON.stringify would write number by number. */
function canonical(id: string, condition: unknown): string {
  if (condition === undefined) return '';
  let text: string | undefined;
  try {
    text = JSON.stringify(condition, (_, value: unknown) => {
      if (typeof value === 'function' || typeof value === 'symbol') throw new TypeError(`a ${typeof value}`);
      if (!ArrayBuffer.isView(value)) return value;
      const bytes = Buffer.from(value.buffer, value.byteOffset, value.byteLength);
      return `${value.constructor.name} ${bytes.toString('base64')}`;
    });
  } catch (cause) {
    throw new SdpoError(
      'ERR_SDPO_DATA',
      `Expected condition of pair ${id} to be JSON-able, since no options.fingerprint was given, received ${(cause as Error).message}`,
      { cause },
    );
  }
  return text ?? '';
}

/**
 * Pairs one after another, from the first on; arrays and generators, asynchronous or not.
 */
export type PairIterable<C = unknown> = AsyncIterable<PreferencePair<C>> | Iterable<PreferencePair<C>>;

export interface StreamPairOptions extends PairOptions {
  /** Shape of one sample. */
  shape: readonly number[];
  /** What changes when the content does; nothing can work it out of a stream. */
  fingerprint: string;
}

/**
 * Pairs in the order in which an iterable gives them.
 *
 * A function is called with the position to start from (the number of pairs taken before) and should seek there: a resumed run costs nothing
 * then. An iterable is read again from its start and the pairs before the position are dropped, which makes them anew; a generator object,
 * which can be read only once, serves one run.
 *
 * @throws from the iterator: SdpoError `ERR_SDPO_DATA` that names the position and what does not fit, or ends before the position to resume from
 */
export function pairsFromStream<C = unknown>(
  source: PairIterable<C> | ((position: number) => PairIterable<C>),
  options: StreamPairOptions,
): PairStream<C> {
  if (typeof source !== 'function' && !isIterable(source)) {
    failType('source', 'an iterable of preference pairs, or a function of a position that returns one', source);
  }
  options = checkOptions('options', options, ['shape', 'fingerprint', 'nonFinite']);
  const shape = checkSampleShape(options.shape);
  const nonFinite = checkNonFinite(options.nonFinite);
  const fingerprint = checkFingerprint(options.fingerprint) ?? failType('options.fingerprint', 'a string', undefined);
  const size = elementCount(shape);
  let taken: unknown;

  async function* pairs(iterable: PairIterable<C>, first: number, position: number): AsyncGenerator<PreferencePair<C>> {
    let at = first;
    for await (const pair of iterable) {
      if (at >= position) {
        checkPair(`the pair at position ${at}`, pair, size, nonFinite);
        yield pair;
      }
      at++;
    }
    if (at < position) {
      throw new SdpoError('ERR_SDPO_DATA', `Expected the stream to have ${position} pairs to skip, received ${at}`);
    }
  }

  return {
    kind: 'stream',
    shape,
    fingerprint,
    read(position) {
      checkInteger('position', position, 0);
      if (typeof source === 'function') {
        const iterable = source(position);
        if (!isIterable(iterable)) failType('the result of source(position)', 'an iterable', iterable);
        return pairs(iterable, position, position);
      }
      // A generator is its own iterator: reading it again would give nothing, which a trainer would take for the end of the data.
      if (taken === source) {
        throw new SdpoError(
          'ERR_SDPO_DATA',
          'Expected source to be an iterable that can be read again, or a function of the position, received one that was read before',
        );
      }
      if (isOnce(source)) taken = source;
      return pairs(source, 0, position);
    },
  };
}

function isIterable(value: unknown): value is PairIterable<never> {
  return typeof value === 'object' && value !== null && (Symbol.asyncIterator in value || Symbol.iterator in value);
}

/** Whether an iterable is its own iterator; asked without starting it. */
function isOnce(value: object): boolean {
  return 'next' in value && typeof value.next === 'function';
}
