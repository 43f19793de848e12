/** Modules of the user that a config names: what their functions are given, what they give, and how they are loaded. */

import { existsSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import type { NoiseSchedule } from '../schedule.js';
import type { EvaluationContext } from '../trainer/options.js';
import type { MaybePromise, PairSource, Policy } from '../trainer/types.js';
import type { ModuleConfig } from './config.js';
import { configError } from './config-error.js';
import { suggest } from './schema.js';

type Options = Readonly<Record<string, unknown>>;

/** What the function of a data module is told beside its options. */
export interface DataModuleContext {
  /** Absolute path of the folder that the paths of the config are relative to. */
  readonly folder: string;
  /** The seed of the run. */
  readonly seed: number;
  readonly schedule: NoiseSchedule;
}

/** What the function of a policy module is told beside its options. */
export interface PolicyModuleContext extends DataModuleContext {
  /** Shape of one sample of the data. */
  readonly shape: readonly number[];
}

/** What the function of an evaluation module is told beside its options. */
export interface EvaluationModuleContext<C = unknown> extends PolicyModuleContext {
  readonly data: PairSource<C>;
}

/** `data.module`: makes the pairs. */
export type DataModule<C = unknown> = (options: Options, context: DataModuleContext) => MaybePromise<PairSource<C>>;

/** `policy.module`: makes the policy, with the weights the training starts from. */
export type PolicyModule<C = unknown> = (options: Options, context: PolicyModuleContext) => MaybePromise<Policy<C>>;

/** `evaluation.module`: prepares an evaluation, which is called as the trainer's `evaluate.run`. */
export type EvaluationModule<C = unknown> = (
  options: Options,
  context: EvaluationModuleContext<C>,
) => MaybePromise<(context: EvaluationContext<C>) => MaybePromise<Readonly<Record<string, number>>>>;

/**
 * Calls the function that a part of the config names.
 *
 * @param path of that part in the config, for messages
 */
export async function callModule<T>(path: string, config: ModuleConfig, base: string, context: object): Promise<T> {
  const name = config.export ?? 'default';
  const loaded = await importModule(`${path}.module`, resolve(base, config.module));
  const made = loaded[name];
  if (typeof made !== 'function') {
    const known = Object.keys(loaded);
    const received = made === undefined ? `a module that exports ${known.join(', ') || 'nothing'}` : typeof made;
    throw configError(
      `Expected ${path}.module to export a function ${name}, received ${received}${suggest(name, known)} (${config.module})`,
    );
  }
  return (await made(config.options ?? {}, context)) as T;
}

async function importModule(path: string, file: string): Promise<Record<string, unknown>> {
  if (!existsSync(file)) throw configError(`Expected ${path} to be a module, received no such file: ${file}`);
  try {
    return await import(pathToFileURL(file).href);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ERR_UNKNOWN_FILE_EXTENSION') throw error;
    throw configError(
      `Expected ${path} to be a module that Node ${process.versions.node} can import, received ${file}; for TypeScript: npm install tsx, and NODE_OPTIONS="--import tsx"`,
      error,
    );
  }
}
