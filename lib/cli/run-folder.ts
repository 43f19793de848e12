/** The folder of a run: what is in it, when it may be used, and the record of the config that the run has. */

import { readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { arch, cpus, platform } from 'node:os';
import { join, relative, resolve } from 'node:path';
import writeFileAtomic from 'write-file-atomic';
import { SdpoError } from '../native/errors.js';
import { printable } from '../native/printable.js';
import { describe } from '../native/validate.js';
import { readConfigFile } from '../schedule/config-file.js';
import { packageVersion } from '../selftest/diagnose.js';
import { type Difference, differencesOf } from '../trainer/difference.js';
import { makeFolder, namingFiles, namingFilesSync } from '../trainer/file-error.js';
import type { LoadedConfig, TrainConfig } from './config.js';
import { configError } from './config-error.js';
import { LOCK } from './run-lock.js';

/** Names within the folder of a run. */
export const RUN_FILES = {
  config: 'config.json',
  environment: 'environment.json',
  metrics: 'metrics.jsonl',
  previews: 'previews',
  checkpoints: 'checkpoints',
  weights: 'weights.safetensors',
  averageWeights: 'weights-average.safetensors',
  summary: 'summary.json',
} as const;

/** What an interrupted atomic write of the first file of a run leaves behind. */
const LEFTOVER = /^config\.json\.\d+$/;

/**
 * Whether the folder has a run to go on with. Nothing is written.
 * @throws SdpoError ERR_SDPO_CONFIG where the folder may not be used: it has something in it and `resume` is not set, or what is in it is not
 *   a run, or one with another config.
 */
export function checkRunFolder({ config, base, out }: LoadedConfig, resume: boolean): boolean {
  const entries = list(out).filter((name) => !LEFTOVER.test(name) && name !== LOCK);
  if (entries.length === 0) return false;
  if (!resume) {
    const hint = entries.includes(RUN_FILES.config) ? '; --resume goes on with the run in it' : '';
    throw configError(
      `Expected ${printable(out)} to be empty or new, received a folder with ${entries.length} entries${hint}`,
    );
  }
  if (!entries.includes(RUN_FILES.config)) {
    throw configError(`Expected ${printable(out)} to hold a run, received a folder without ${RUN_FILES.config}`);
  }
  // Without a checkpoint there are no numbers to go on with: the run begins, with whatever config.
  if (list(join(out, RUN_FILES.checkpoints)).every((name) => !/^checkpoint-\d+$/.test(name))) return true;
  const [difference] = configDifferences(out, { config, base });
  if (difference !== undefined) {
    const { path, before, now } = difference;
    throw configError(
      `Expected ${printable(path)} to be ${printable(before)}, as in the run that --resume goes on with (${printable(join(out, RUN_FILES.config))}), ` +
        `received ${printable(now)}\nA new run may go on with other settings: --from-checkpoint ${printable(join(out, RUN_FILES.checkpoints))}/checkpoint-<step> --out <folder>`,
    );
  }
  return true;
}

/** What differs between the config of the run in a folder and another one, in the parts that decide the numbers. */
export function configDifferences(run: string, { config, base }: Pick<LoadedConfig, 'config' | 'base'>): Difference[] {
  const before = readConfigFile(join(run, RUN_FILES.config)) as unknown as TrainConfig;
  const folder = typeof before.base === 'string' ? before.base : '.';
  return differencesOf(deciding(before, resolve(run, folder)), deciding(config, base));
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw configError(
      `Expected ${printable(folder)} to be a folder, received: ${printable((error as Error).message)}`,
      error,
    );
  }
}

/** The parts of a config that decide the numbers of a run; the others may change when it goes on. */
function deciding(config: TrainConfig, base: string): unknown {
  const { $schema, out, checkpoints, evaluation, validation, ...parts } = config;
  const { threads, ...loss } = parts.loss ?? {};
  const { steps, ...training } = parts.training ?? {};
  // A rate that decays depends on how many steps there will be.
  const decays = training.learningRate?.decay !== 'constant';
  return { ...parts, base, loss, training: decays ? { ...training, steps } : training };
}

/**
 * Makes the folder and writes what the run is: its complete config, with which `sdpo train` would run again, and, for each time it was started,
 * with what.
 *
 * @param goesOn whether the run goes on from a checkpoint; without one, nothing that was logged before belongs to it
 */
export async function recordRun({ config, base, out }: LoadedConfig, goesOn: boolean): Promise<void> {
  namingFilesSync({ task: 'make the folder of the run', path: out }, () => makeFolder(out));
  // What an earlier end left behind is not what this one will leave.
  const ends = [RUN_FILES.weights, RUN_FILES.averageWeights, RUN_FILES.summary];
  for (const name of goesOn ? ends : [...ends, RUN_FILES.metrics, RUN_FILES.previews]) {
    const path = join(out, name);
    namingFilesSync({ task: 'remove what an earlier end of the run left', path }, () =>
      rmSync(path, { force: true, recursive: name === RUN_FILES.previews }),
    );
  }
  const record: TrainConfig = { ...config, base: relative(out, base) || '.' };
  delete (record as { $schema?: string }).$schema; // a path that was relative to another file
  const sessions = readSessions(join(out, RUN_FILES.environment));
  await writeJson('write the config of the run', join(out, RUN_FILES.config), record);
  await writeJson('write the record of this start', join(out, RUN_FILES.environment), {
    sessions: [...sessions, environment()],
  });
}

function readSessions(file: string): unknown[] {
  const found = namingFilesSync({ task: 'read the record of earlier starts', path: file }, () =>
    statSync(file, { throwIfNoEntry: false }),
  );
  if (found === undefined) return [];
  // A pipe would be waited for.
  const text = found.isFile() ? readFileSync(file, 'utf8') : undefined;
  try {
    const { sessions } = JSON.parse(text ?? '') as { sessions: unknown };
    if (Array.isArray(sessions)) return sessions;
  } catch {
    // The next line says what is wrong.
  }
  throw new SdpoError(
    'ERR_SDPO_FILE',
    `Expected ${printable(file)} to be JSON with a list of sessions, received ${text === undefined ? 'something else than a file' : describe(text)}; it says when and where the run was started, nothing else: move it away`,
  );
}

function environment(): Record<string, string | number> {
  const processors = cpus();
  return {
    started: new Date().toISOString(),
    sdpo: packageVersion(),
    node: process.versions.node,
    system: `${platform()}-${arch()}`,
    cpu: processors[0]?.model.trim() ?? 'unknown',
    cores: processors.length,
  };
}

/** Writes JSON so that the file has either its old content or the new one; `task` is for the message where that fails. */
export async function writeJson(task: string, path: string, value: unknown): Promise<void> {
  await namingFiles({ task, path }, () => writeFileAtomic(path, `${JSON.stringify(value, null, 2)}\n`));
}
