/** What decides the numbers of a training, as JSON that a checkpoint keeps and a run that goes on compares. */

import { SdpoError } from '../native/errors.js';
import { printable } from '../native/printable.js';
import { failType, failValue } from '../native/validate.js';
import { type Difference, differencesOf } from './difference.js';
import { OPTION_NAMES, type ResolvedTrainerOptions } from './options.js';
import type { TrainerProgress } from './types.js';

/**
 * Options that are no part of the setup. Everything else is, also what is added one day: a run that goes on has the same, or is told so.
 * `policy` says by its `load` what fits it, and the writers, evaluations, held-out pairs and checkpoints of a run leave its numbers alone.
 */
const FREE: readonly string[] = [
  'policy',
  'writers',
  'evaluate',
  'validation',
  'checkpoints',
  'signal',
  'onWarning',
  'maxSkipped',
];

/** Names that may be given to `load` as free. */
const COMPARED = OPTION_NAMES.filter((name) => !FREE.includes(name));

/** The options that decide the numbers, without data and seed, which a checkpoint keeps by themselves. */
export function setupOf<C>(options: ResolvedTrainerOptions<C>): Record<string, unknown> {
  const { loss, schedule, data, seed, ...rest } = options;
  const { schedule: _, threads: __, ...lossOptions } = loss.options;
  const parts = { loss: lossOptions, schedule: schedule.toJSON(), ...rest };
  return Object.fromEntries(
    Object.entries(parts)
      .filter(([name, value]) => !FREE.includes(name) && value !== undefined)
      .map(([name, value]) => [name, comparable(value)]),
  );
}

/** JSON of options: what has behaviour stands as words, since only its presence can be compared. */
function comparable(value: unknown): unknown {
  if (typeof value === 'function') return 'a function';
  if (typeof value === 'number') return Number.isFinite(value) ? value : String(value);
  if (typeof value !== 'object' || value === null) return value;
  if (Array.isArray(value)) return value.map(comparable);
  const entries = Object.entries(value).filter(([, entry]) => entry !== undefined);
  const plain = [Object.prototype, null].includes(Object.getPrototypeOf(value));
  if (!plain || entries.some(([, entry]) => typeof entry === 'function')) return 'an object';
  return Object.fromEntries(entries.map(([name, entry]) => [name, comparable(entry)]));
}

export interface LoadOptions {
  /**
   * What may differ from the state, by the names of the trainer's options: `['learningRate', 'loss.beta']`, or 'all'. Default: nothing. Functions
   * and objects are compared by their presence only.
   */
  free?: readonly string[] | 'all';
}

/**
 * @param free as in {@link LoadOptions}
 * @returns every difference, all of which are free
 * @throws SdpoError ERR_SDPO_RESUME where one is not
 */
export function compareSetup<C>(
  { seed, data, setup }: TrainerProgress,
  options: ResolvedTrainerOptions<C>,
  free: LoadOptions['free'] = [],
): Difference[] {
  const names = checkFree(free);
  const now = { seed: options.seed, data: options.data.fingerprint, ...setupOf(options) };
  const differences = differencesOf({ seed, data, ...setup }, now);
  const isFree = ({ path }: Difference) => names.some((name) => path === name || path.startsWith(`${name}.`));
  const refused = differences.find((difference) => names !== EVERYTHING && !isFree(difference));
  if (refused !== undefined) {
    throw new SdpoError(
      'ERR_SDPO_RESUME',
      `Expected ${printable(refused.path)} to be ${printable(refused.before)} as in the checkpoint, received ${printable(refused.now)}`,
    );
  }
  return differences;
}

const EVERYTHING: readonly string[] = ['all'];

function checkFree(free: LoadOptions['free']): readonly string[] {
  if (free === 'all') return EVERYTHING;
  if (!Array.isArray(free)) failType('options.free', "a list of options, or 'all'", free);
  for (const name of free) {
    const known = typeof name === 'string' && (COMPARED.includes(name.split('.')[0]!) || name === 'schedule');
    if (!known) failValue('options.free', `a list of ${COMPARED.join(', ')}, or of fields of these`, name);
  }
  return free;
}
