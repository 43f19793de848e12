/** Checkpoints on disk: each one a folder that is there completely or not at all, whenever the process is killed. */

import { randomBytes } from 'node:crypto';
import { mkdir, readdir, rename, rm } from 'node:fs/promises';
import { basename, join, resolve } from 'node:path';
import { listFolder } from '../files/open.js';
import { readTextFile } from '../files/text.js';
import { SdpoError } from '../native/errors.js';
import { printable } from '../native/printable.js';
import { checkInteger, checkOptions, describe, failType } from '../native/validate.js';
import { decodeSafetensors, encodeSafetensors } from '../tensor/safetensors.js';
import { type FileTask, makeFolder, namingFiles } from './file-error.js';
import { readRanges, sha256, syncFolder, writeDurably } from './files.js';
import { fromPlain, toPlain } from './json.js';
import type { PolicyTensors, TrainerProgress, TrainerState } from './types.js';

/** Goes up when an older reader could no longer read what is written. */
const FORMAT = 1;
const TENSORS = 'policy.safetensors';
const PROGRESS = 'progress.json';
const NAME = /^checkpoint-(\d+)$/;
/** An older checkpoint of the same step, for as long as it takes to put a new one in its place. */
const REPLACED = /^checkpoint-(\d+)\.replaced$/;
const UNFINISHED = /^\.checkpoint-\d+\.[0-9a-f]+\.tmp$/;

export interface CheckpointOptions {
  /** How many checkpoints stay; older ones are removed after a save. Infinity keeps all. Default 3. */
  keep?: number | undefined;
}

/** A checkpoint on disk; its content has not been looked at. */
export interface CheckpointEntry {
  readonly step: number;
  readonly path: string;
}

/** The newest checkpoint that could be read. */
export interface LatestCheckpoint extends CheckpointEntry {
  readonly state: TrainerState;
  /** One message for each newer checkpoint that is damaged; somebody should be told. */
  readonly warnings: readonly string[];
}

interface ProgressFile {
  readonly format: number;
  readonly tensors: { readonly bytes: number; readonly sha256: string };
  readonly scalars: unknown;
  readonly progress: unknown;
}

/**
 * Checkpoints of one run in one folder, which no other process may save to at the same time.
 *
 * `checkpoint-<step>/` holds `policy.safetensors` (the tensors of the policy's state, bit by bit) and `progress.json` (its scalars, the trainer's
 * progress, format, length and SHA-256 of the tensors, and a SHA-256 of itself). It is written under a hidden name, brought to the disk and then
 * renamed. What a killed process left unfinished is ignored, and removed by the next `save`.
 */
export class CheckpointStore {
  readonly folder: string;
  readonly keep: number;
  #saving: Promise<unknown> = Promise.resolve();
  /** Step of the checkpoint that was read last: it stays until there is one of this store's own. */
  #source: number | undefined;

  constructor(folder: string, options: CheckpointOptions = {}) {
    if (typeof folder !== 'string') failType('folder', 'a path', folder);
    options = checkOptions('options', options, ['keep']);
    const { keep = 3 } = options;
    this.folder = folder;
    this.keep = keep === Infinity ? keep : checkInteger('options.keep', keep, 1);
  }

  /**
   * Writes a checkpoint, in the place of one of the same step, and removes those beyond `keep`: what is there beyond it before writing, so that a
   * smaller `keep` makes room on a full disk, and what the new one has made superfluous after it. Saves of one store wait for each other.
   *
   * @returns its path
   * @throws TypeError where scalars, setup or threshold are not plain JSON; SdpoError `ERR_SDPO_FILE` where it cannot be written, and then all
   *   checkpoints within `keep` are as they were
   */
  async save(state: TrainerState): Promise<string> {
    const step = checkInteger('state.progress.step', state.progress.step, 0);
    return this.#inTurn(this.#writing(step), () => this.#save(state, step));
  }

  /** Removes what is beyond `keep` and what an unfinished save left, without writing anything. */
  prune(): Promise<void> {
    return this.#inTurn({ task: 'remove old checkpoints', path: this.folder }, async () => {
      if ((await this.list()).length === 0) return;
      await this.#tidy();
      await this.#prune(this.keep);
    });
  }

  #writing(step: number): FileTask {
    const smaller = `a smaller keep than ${this.keep} (checkpoints.keep of a config) lets older checkpoints make room`;
    return {
      task: `write the checkpoint of step ${step}`,
      path: join(this.folder, `checkpoint-${step}`),
      ...(this.keep > 1 ? { help: { ENOSPC: smaller, EDQUOT: smaller } } : {}),
    };
  }

  #inTurn<T>(task: FileTask, work: () => Promise<T>): Promise<T> {
    const done = this.#saving.then(() => namingFiles(task, work));
    this.#saving = done.catch(() => {});
    return done;
  }

  async #save({ policy, progress }: TrainerState, step: number): Promise<string> {
    const tensors = encodeSafetensors(policy.tensors);
    const content: ProgressFile = {
      format: FORMAT,
      tensors: { bytes: tensors.byteLength, sha256: sha256(tensors) },
      scalars: toPlain('state.policy.scalars', policy.scalars),
      progress: toPlain('state.progress', progress),
    };
    makeFolder(this.folder);
    await this.#tidy();
    await this.#prune(this.keep, this.#source);

    const temporary = this.#hidden(step);
    const path = join(this.folder, `checkpoint-${step}`);
    try {
      await mkdir(temporary);
      await writeDurably(join(temporary, TENSORS), tensors);
      const text = JSON.stringify({ sha256: sha256(JSON.stringify(content)), ...content }, null, 2);
      await writeDurably(join(temporary, PROGRESS), `${text}\n`);
      await syncFolder(temporary);
      // No rename replaces a folder that is not empty: the old one steps aside under a name that `list` knows.
      const exists = (await readdir(this.folder)).includes(`checkpoint-${step}`);
      if (exists) await rename(path, `${path}.replaced`);
      await rename(temporary, path);
    } catch (error) {
      await rm(temporary, { recursive: true, force: true });
      await this.#tidy();
      throw error;
    }
    await syncFolder(this.folder);
    await this.#tidy();
    this.#source = undefined;
    // The new one stays even where newer steps lie here, left by a run that this one went back behind.
    await this.#prune(this.keep, step);
    return path;
  }

  /** Leaves `count` checkpoints, the newest but for one that stays in any case. */
  async #prune(count: number, kept: number | undefined = this.#source): Promise<void> {
    const all = await this.list();
    const others = all.filter(({ step }) => step !== kept);
    const superfluous = Math.max(0, all.length - count);
    for (const entry of others.slice(0, superfluous)) await this.#remove(entry);
  }

  #hidden(step: number): string {
    return join(this.folder, `.checkpoint-${step}.${randomBytes(6).toString('hex')}.tmp`);
  }

  /** Removes a checkpoint so that no half of it is ever taken for one. */
  async #remove({ step, path }: CheckpointEntry): Promise<void> {
    const doomed = this.#hidden(step);
    await rename(path, doomed);
    await rm(doomed, { recursive: true, force: true });
  }

  /** Removes what an unfinished save left, and takes a replaced checkpoint back where its successor did not come. */
  async #tidy(): Promise<void> {
    const names = await readdir(this.folder);
    for (const name of names) {
      const path = join(this.folder, name);
      const replaced = REPLACED.exec(name);
      if (UNFINISHED.test(name)) await rm(path, { recursive: true, force: true });
      else if (replaced !== null) {
        const own = `checkpoint-${replaced[1]}`;
        if (names.includes(own)) await rm(path, { recursive: true, force: true });
        else await rename(path, join(this.folder, own));
      }
    }
  }

  /** All complete checkpoints, oldest step first; empty where the folder does not exist. */
  async list(): Promise<CheckpointEntry[]> {
    const names = await listFolder(this.folder, 'ERR_SDPO_CHECKPOINT');
    const found = new Map<number, string>();
    for (const pattern of [REPLACED, NAME]) {
      for (const name of names) {
        const match = pattern.exec(name);
        if (match !== null) found.set(Number(match[1]), join(this.folder, name));
      }
    }
    return [...found].map(([step, path]) => ({ step, path })).sort((a, b) => a.step - b.step);
  }

  /**
   * Reads a checkpoint, by default the newest, and no other.
   *
   * @throws SdpoError `ERR_SDPO_CHECKPOINT` with the path where it is missing, damaged or of a later format
   */
  async load(step?: number): Promise<TrainerState> {
    if (step !== undefined) checkInteger('step', step, 0);
    const entries = await this.list();
    const entry = step === undefined ? entries.at(-1) : entries.find((entry) => entry.step === step);
    if (entry === undefined) {
      const wanted = step === undefined ? 'a checkpoint' : `a checkpoint of step ${step}`;
      throw new SdpoError(
        'ERR_SDPO_CHECKPOINT',
        `Expected ${printable(this.folder)} to hold ${wanted}, received the steps ${entries.map(({ step }) => step).join(', ') || '(none)'}`,
      );
    }
    return this.#read(entry);
  }

  async #read(entry: CheckpointEntry): Promise<TrainerState> {
    const state = await read(entry);
    this.#source = entry.step;
    return state;
  }

  /**
   * The newest checkpoint that can be read, with a warning for every newer one that cannot; undefined where there are none.
   *
   * @throws SdpoError `ERR_SDPO_CHECKPOINT` where there are checkpoints and all are damaged: starting anew would hide that
   */
  async latest(): Promise<LatestCheckpoint | undefined> {
    const entries = await this.list();
    const warnings: string[] = [];
    for (const entry of entries.reverse()) {
      try {
        return { ...entry, state: await this.#read(entry), warnings };
      } catch (error) {
        if (!(error instanceof SdpoError)) throw error;
        warnings.push(error.message);
      }
    }
    if (warnings.length === 0) return undefined;
    throw new SdpoError(
      'ERR_SDPO_CHECKPOINT',
      `Expected ${printable(this.folder)} to hold a checkpoint that can be read, received only damaged ones: ${warnings.join('; ')}`,
    );
  }
}

/**
 * Reads a single checkpoint, of whatever run, to begin another one with it (`PreferenceTrainer.load` with `free`).
 *
 * @param path of its folder, `…/checkpoint-<step>`
 * @throws SdpoError `ERR_SDPO_CHECKPOINT` with the path where it is missing, damaged or of a later format
 */
export async function readCheckpoint(path: string): Promise<TrainerState> {
  if (typeof path !== 'string') failType('path', 'a path', path);
  const name = basename(resolve(path));
  const step = NAME.exec(name)?.[1];
  if (step !== undefined) return read({ path, step: Number(step) });
  const below = await namesIn(path, join(path, 'checkpoints'));
  const hint = below.length === 0 ? '' : `; it holds ${below.join(', ')}`;
  damaged(path, 'the folder of a checkpoint, checkpoint-<step>', `${printable(name)}${hint}`);
}

/** Checkpoints in the first of some folders that has any, as paths from there. */
async function namesIn(...folders: readonly string[]): Promise<string[]> {
  for (const folder of folders) {
    const found = await new CheckpointStore(folder).list().catch(() => []);
    if (found.length > 0) return found.map(({ path }) => join(basename(folder), basename(path)));
  }
  return [];
}

async function read({ path, step }: CheckpointEntry): Promise<TrainerState> {
  const file = join(path, PROGRESS);
  const text = readTextFile(file, 'ERR_SDPO_CHECKPOINT');
  let parsed: { sha256?: unknown } & Partial<ProgressFile>;
  try {
    parsed = JSON.parse(text);
  } catch (cause) {
    damaged(file, 'complete JSON', (cause as Error).message);
  }
  if (typeof parsed !== 'object' || parsed === null) damaged(file, 'a JSON object', describe(parsed));
  const { sha256: sum, ...content } = parsed;
  // A later format may have other checksums, so this comes first.
  if (content.format !== FORMAT) damaged(file, `of format ${FORMAT}`, `format ${describe(content.format)}`);
  if (sum !== sha256(JSON.stringify(content))) damaged(file, 'as it was written', 'a content with another SHA-256');
  const { tensors, scalars, progress } = content as ProgressFile;
  for (const [name, part] of Object.entries({ tensors, scalars, progress })) {
    if (typeof part !== 'object' || part === null) damaged(file, `a JSON object with ${name}`, describe(part));
  }

  const tensorFile = join(path, TENSORS);
  const range = { begin: 0, length: tensors.bytes };
  const bytes = (await readRanges(tensorFile, [range], 'ERR_SDPO_CHECKPOINT', tensors.bytes))[0]!;
  if (sha256(bytes) !== tensors.sha256) damaged(tensorFile, 'as it was written', 'a content with another SHA-256');
  const state: TrainerState = {
    policy: { tensors: decodeTensors(tensorFile, bytes), scalars: fromPlain(scalars) as Record<string, unknown> },
    progress: fromPlain(progress) as TrainerProgress,
  };
  if (state.progress.step !== step) damaged(path, `of step ${step}`, `step ${state.progress.step}`);
  return state;
}

function decodeTensors(path: string, bytes: Uint8Array): PolicyTensors {
  try {
    return decodeSafetensors(bytes).tensors;
  } catch (error) {
    damaged(path, 'a file of tensors', (error as Error).message);
  }
}

function damaged(path: string, expected: string, received: string): never {
  throw new SdpoError('ERR_SDPO_CHECKPOINT', `Expected ${printable(path)} to be ${expected}, received ${received}`);
}
