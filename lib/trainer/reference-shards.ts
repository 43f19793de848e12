/** The folder of a reference cache: a manifest that says what was recorded, and shards of evaluations, which several processes may add to at once. */

import { randomBytes } from 'node:crypto';
import { link, open, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { isMissing, listFolder } from '../files/open.js';
import { readTextFile } from '../files/text.js';
import { SdpoError } from '../native/errors.js';
import { printable } from '../native/printable.js';
import { describe } from '../native/validate.js';
import { encodeSafetensors, type SafetensorsEntry } from '../tensor/safetensors.js';
import { makeFolder, namingFiles } from './file-error.js';
import {
  elementsOf,
  readRanges,
  readSafetensorsHeader,
  rowRange,
  type StoredTensor,
  syncFolder,
  writeDurably,
} from './files.js';
import type { TrainingRows } from './types.js';

const FORMAT = 1;
const MANIFEST = 'manifest.json';
const SHARD = /^shard-(\d+)\.safetensors$/;
/** What is being written, by the process of this number. */
const UNFINISHED = /^(?:manifest\.json|shard-\d+\.safetensors)\.(\d+)\.[0-9a-f]+$/;
/** Another process, on another machine perhaps, may take what is being written for a leftover. */
const ATTEMPTS = 5;
const CODE = 'ERR_SDPO_REFERENCE_CACHE';

/** What a recorded evaluation belonged to, as it stands in the metadata of its shard. */
interface Label {
  readonly step: number;
  readonly part: number;
  readonly ids: readonly string[];
}

/** An evaluation on disk: its shard's tensors and its first row there. */
export interface Stored extends Label {
  readonly path: string;
  readonly tensors: ReadonlyMap<string, StoredTensor>;
  readonly firstRow: number;
  /** 'array', or the device that its tensor lay on. */
  readonly place: string;
}

/** An evaluation that waits to be written. */
export interface Waiting extends Label {
  readonly timesteps: Float64Array;
  readonly tensors: Readonly<Record<string, SafetensorsEntry>>;
  readonly place: string;
}

/** The shards of a cache. */
export class ShardFolder {
  readonly #folder: string;
  readonly #kind: string;
  readonly #fingerprint: Readonly<Record<string, unknown>>;
  /** Names of the shards that are known. */
  readonly #known = new Set<string>();
  #next = 0;

  constructor(folder: string, kind: string, fingerprint: Readonly<Record<string, unknown>>) {
    this.#folder = folder;
    this.#kind = kind;
    this.#fingerprint = fingerprint;
  }

  /** Makes the folder where there is none; refuses one that was recorded for something else. */
  open(): Promise<void> {
    return namingFiles({ task: 'open the reference cache', path: this.#folder }, () => this.#open());
  }

  async #open(): Promise<void> {
    makeFolder(this.#folder);
    const names = await listFolder(this.#folder, CODE);
    for (const name of names.filter(isLeftover)) await rm(join(this.#folder, name), { force: true });
    if (await this.#checkManifest()) return;
    const shards = (await listFolder(this.#folder, CODE)).filter((name) => SHARD.test(name)).sort();
    const manifest = join(this.#folder, MANIFEST);
    // Whoever recorded them wrote the manifest first, if only a moment ago.
    if (shards.length > 0 && !(await this.#checkManifest())) {
      fail(`${manifest} to be there`, `only the files ${shards.join(', ')}`);
    }
    const content = { format: FORMAT, kind: this.#kind, fingerprint: this.#fingerprint };
    await this.#publish(MANIFEST, `${JSON.stringify(content, null, 2)}\n`);
    await this.#checkManifest();
  }

  /** The evaluations of shards that were not known yet: of an earlier run, or of another process. */
  async scan(): Promise<Stored[]> {
    const names = (await listFolder(this.#folder, CODE)).filter((name) => SHARD.test(name) && !this.#known.has(name));
    const found: Stored[] = [];
    for (const name of names.sort()) {
      // An empty one claims the name for what is about to come.
      const path = join(this.#folder, name);
      const stats = await namingFiles({ task: 'read a file of the reference cache', path }, () => stat(path));
      if (!stats.isFile() || stats.size > 0) found.push(...(await this.#entriesOf(name)));
    }
    return found;
  }

  /** Writes evaluations of one kind as a shard; gives them as they are then stored. */
  write(waiting: readonly Waiting[]): Promise<Stored[]> {
    const [first, last] = [waiting[0]!.step + 1, waiting.at(-1)!.step + 1];
    const steps = first === last ? `step ${first}` : `the steps ${first} to ${last}`;
    const task = `keep what the reference gave in ${steps}`;
    return namingFiles({ task, path: this.#folder }, () => this.#write(waiting));
  }

  async #write(waiting: readonly Waiting[]): Promise<Stored[]> {
    const tensors: Record<string, SafetensorsEntry> = {
      timesteps: joined(
        waiting.map(({ timesteps }) => ({ dtype: 'float64', shape: [timesteps.length], data: timesteps })),
      ),
    };
    for (const name of Object.keys(waiting[0]!.tensors))
      tensors[name] = joined(waiting.map(({ tensors }) => tensors[name]!));
    const entries = JSON.stringify(waiting.map(({ step, part, ids }) => ({ step, part, ids })));
    const bytes = encodeSafetensors(tensors, { entries, place: waiting[0]!.place });
    // Somebody else may have begun to record for something else at the same moment.
    await this.#checkManifest();
    for (;;) {
      const name = `shard-${String(this.#next++).padStart(6, '0')}.safetensors`;
      if (await this.#publish(name, bytes)) return this.#entriesOf(name);
    }
  }

  async #entriesOf(name: string): Promise<Stored[]> {
    const path = join(this.#folder, name);
    const { tensors, metadata } = await readSafetensorsHeader(path, CODE);
    this.#known.add(name);
    this.#next = Math.max(this.#next, Number(SHARD.exec(name)![1]) + 1);
    let firstRow = 0;
    return readLabels(path, metadata).map((label): Stored => {
      const stored = { ...label, path, tensors, firstRow };
      firstRow += label.ids.length;
      return stored;
    });
  }

  /** Puts a file in its place, whole; false where there is one already. */
  async #publish(name: string, content: Uint8Array | string): Promise<boolean> {
    const path = join(this.#folder, name);
    for (let attempt = 1; ; attempt++) {
      const temporary = `${path}.${process.pid}.${randomBytes(6).toString('hex')}`;
      try {
        await writeDurably(temporary, content);
        const isNew = await moveInto(temporary, path);
        await syncFolder(this.#folder);
        return isNew;
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'ENOENT' || attempt === ATTEMPTS) throw error;
      } finally {
        await rm(temporary, { force: true });
      }
    }
  }

  /** False where there is no manifest. */
  async #checkManifest(): Promise<boolean> {
    const path = join(this.#folder, MANIFEST);
    let text: string;
    try {
      text = readTextFile(path, CODE);
    } catch (error) {
      if (isMissing(error)) return false;
      throw error;
    }
    checkManifest(path, text, this.#kind, this.#fingerprint);
    return true;
  }
}

/** Whether a file was left by a process of this machine that is no more. */
function isLeftover(name: string): boolean {
  const match = UNFINISHED.exec(name);
  if (match === null) return false;
  try {
    process.kill(Number(match[1]), 0);
    return false;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'ESRCH';
  }
}

/** Moves a file to a name that nobody has; false where somebody does. */
async function moveInto(temporary: string, path: string): Promise<boolean> {
  try {
    await link(temporary, path);
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') return false;
    if (code === 'ENOENT') throw error;
  }
  // File systems without links: an empty file claims the name until the content takes its place.
  try {
    await (await open(path, 'wx')).close();
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  }
  await rename(temporary, path);
  return true;
}

/** Tensors of the same dtype and shape of a row as one, in order. */
function joined(parts: readonly SafetensorsEntry[]): SafetensorsEntry {
  const { dtype, shape, data } = parts[0]!;
  const length = parts.reduce((sum, part) => sum + part.data.length, 0);
  const all = new (data.constructor as Float64ArrayConstructor)(length);
  let at = 0;
  for (const part of parts) {
    all.set(part.data as Float64Array, at);
    at += part.data.length;
  }
  return { dtype, shape: [parts.reduce((sum, part) => sum + part.shape[0]!, 0), ...shape.slice(1)], data: all };
}

/** The rows of an evaluation, after its ids and timesteps were found to be those asked for. */
export async function readStored<C>(stored: Stored, rows: TrainingRows<C>, names: readonly string[], perRow: number) {
  const { path, tensors, firstRow, ids } = stored;
  const what = `step ${rows.step}, part ${rows.part} of ${path}`;
  if (ids.length !== rows.ids.length) fail(`${what} to be of ${rows.ids.length} rows`, `${ids.length}`);
  ids.forEach((id, row) => {
    if (id !== rows.ids[row]) fail(`row ${row} in ${what} to be of the pair ${rows.ids[row]}`, `${id}`);
  });
  const fields = ['timesteps', ...names].map((name) => {
    const tensor = tensors.get(name);
    return tensor ?? fail(`${path} to have the tensor '${name}'`, [...tensors.keys()].join(', '));
  });
  const ranges = fields.map((tensor, i) => {
    const times = i === 0 ? 1 : perRow;
    return rowRange(tensor, firstRow * times, ids.length * times);
  });
  const bytes = await readRanges(path, ranges, CODE, fields[0]!.fileBytes);
  const [timesteps, ...found] = fields.map((tensor, i) => elementsOf(tensor, bytes[i]!));
  rows.timesteps.forEach((t, row) => {
    if (t !== timesteps![row]) fail(`row ${row} in ${what} to be of timestep ${t}`, `${timesteps![row]}`);
  });
  return found;
}

function readLabels(path: string, { entries, place }: Record<string, string>): (Label & Pick<Stored, 'place'>)[] {
  let labels: unknown;
  try {
    labels = JSON.parse(entries ?? '');
  } catch {
    // The next check says what is wrong.
  }
  if (Array.isArray(labels) && labels.every((label) => Array.isArray(label?.ids)) && place !== undefined)
    return labels.map((label) => ({ ...label, place }));
  fail(`${path} to be a file of a reference cache`, `the metadata ${clip(entries)}`);
}

function checkManifest(path: string, text: string, kind: string, fingerprint: Readonly<Record<string, unknown>>): void {
  let manifest: { format?: unknown; kind?: unknown; fingerprint?: Record<string, unknown> };
  try {
    manifest = JSON.parse(text);
  } catch (error) {
    fail(`${path} to be complete JSON`, (error as Error).message);
  }
  if (manifest?.format !== FORMAT) fail(`${path} to be of format ${FORMAT}`, describe(manifest?.format));
  if (manifest.kind !== kind) fail(`${path} to be of kind '${kind}'`, describe(manifest.kind));
  const recorded = manifest.fingerprint ?? {};
  for (const name of new Set([...Object.keys(fingerprint), ...Object.keys(recorded)])) {
    if (isDeepStrictEqual(fingerprint[name], recorded[name])) continue;
    fail(`${path} to be recorded with ${name} ${clip(fingerprint[name])}`, clip(recorded[name]));
  }
}

function clip(value: unknown): string {
  const text = JSON.stringify(value) ?? 'none';
  return text.length > 200 ? `${text.slice(0, 199)}…` : text;
}

export function fail(expected: string, received: string): never {
  throw new SdpoError(CODE, `Expected ${printable(expected)}, received ${printable(received)}`);
}
