/** The file that a run leaves: where it ran, and every sample of every provider in every case. */

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { type Case, caseId } from './cases.js';
import type { Rounds } from './statistics.js';

/** Raised when the meaning of a field changes; files of another number are refused. */
const format = 1;

export interface Machine {
  processor: string;
  cores: number;
  memoryBytes: number;
  system: string;
  instructionSet: string;
  /** Of everything that was measured. */
  versions: Record<string, string>;
}

export interface Measurement {
  case: Omit<Case, 'participants'>;
  provider: string;
  kind: 'ours' | 'peer' | 'ceiling';
  threads: number;
  /** Calls behind each sample. */
  calls: number;
  /** Nanoseconds per call, one entry per round; null where the provider sat it out. */
  rounds: Rounds;
  /** Peak of resident bytes in the first call of a process, beyond those before it. */
  extraBytes?: number;
  /** Largest error against the float64 oracle, in units of what is allowed (1 = the limit). */
  error?: { loss: number; gradient: number };
}

export interface Skip {
  case: Omit<Case, 'participants'>;
  provider: string;
  threads: number;
  reason: string;
}

export interface Results {
  format: number;
  /** ISO date and time of the start, UTC. */
  date: string;
  seconds: number;
  /** The commit that was measured, with `+` where files differed from it. */
  commit?: string;
  quick: boolean;
  /** Average number of runnable threads when the run began: more than a fraction of a core means that the machine was shared. */
  loadBefore: number;
  machine: Machine;
  measurements: Measurement[];
  skipped: Skip[];
}

export function emptyResults(machine: Machine, quick: boolean, loadBefore: number): Results {
  const date = new Date().toISOString();
  return { format, date, seconds: 0, quick, loadBefore, machine, measurements: [], skipped: [] };
}

/** One measurement a line, so that a committed file can be read and compared in a diff. */
export function writeResults(file: string, results: Results): void {
  mkdirSync(dirname(file), { recursive: true });
  const { measurements, skipped, ...head } = results;
  const list = (items: object[]) => `[\n${items.map((item) => JSON.stringify(item)).join(',\n')}\n]`;
  const start = JSON.stringify(head).slice(0, -1);
  writeFileSync(file, `${start},\n"measurements":${list(measurements)},\n"skipped":${list(skipped)}}\n`);
}

export function readResults(file: string): Results {
  const results = JSON.parse(readFileSync(file, 'utf8')) as Results;
  if (results.format !== format) throw new Error(`${file}: expected format ${format}, received ${results.format}`);
  return results;
}

/** A name for a measurement that is the same in every run. */
export function measurementId({
  case: c,
  provider,
  threads,
}: Pick<Measurement, 'case' | 'provider' | 'threads'>): string {
  return `${caseId(c)} | ${provider} | ${threads}`;
}
