/** A run of the suite: collects the providers, measures every case, and gathers the results. */

import { execFileSync } from 'node:child_process';
import { cpus, freemem, loadavg, release, totalmem } from 'node:os';
import { devices } from 'sdpo';
import { type Case, caseId, casesOf, compulsoryBytes } from './cases.js';
import { traffic } from './ceilings.js';
import { Arena, makeBatch } from './data.js';
import { footprint } from './footprint.js';
import { type Effort, fullEffort, measureCase, Pace, quickEffort } from './measure.js';
import type { Provider } from './provider.js';
import { collect } from './providers/all.js';
import { emptyResults, type Machine, type Measurement, writeResults } from './results.js';
import { milliseconds, percent, sharesOf, shortName } from './tables.js';

export interface RunOptions {
  /** Of the providers that have several; default: all cores. */
  threads?: number;
  quick: boolean;
  /** Texts one of which the name of a case must contain. */
  only?: string[];
  /** File for the results. */
  json?: string;
}

/** Measures all cases, one after the other, and reports progress on standard error. */
export async function measure({ threads = cpus().length, quick, only, json }: RunOptions): Promise<void> {
  const cases = casesOf(quick).filter((c) => only?.some((text) => caseId(c).includes(text)) ?? true);
  if (cases.length === 0) throw new Error('--only matches no case');
  const effort = quick ? quickEffort : fullEffort;
  const load = loadavg()[0];
  if (load > 0.25 * cpus().length)
    console.error(`The machine is busy (load ${load.toFixed(1)}): timings will be noisy.`);

  const arena = new Arena();
  const { providers, versions, missing, close } = await collect(threads, arena);
  for (const [name, reason] of missing) console.error(`${name} is left out: ${reason}`);
  const results = { ...emptyResults(describeMachine(versions), quick, load), commit: commitHere() };
  const save = () => {
    results.seconds = Math.round((Date.now() - Date.parse(results.date)) / 1000);
    if (json !== undefined) writeResults(json, results);
  };
  try {
    await measureAll(cases, providers, effort, arena, (measured) => {
      results.measurements.push(...measured.measurements.map((own) => withFootprint(own, threads, quick)));
      results.skipped.push(...measured.skipped);
      save(); // a run that is cut short leaves what it has
    });
  } finally {
    await close();
  }
  for (const c of cases.filter(({ participants }) => participants.includes('peers'))) {
    const { participants: _, ...plain } = c;
    for (const [provider, reason] of missing) results.skipped.push({ case: plain, provider, threads, reason });
  }
  save();
  console.error(
    `${results.measurements.length} measurements in ${results.seconds} s${json ? `, written to ${json}` : ''}`,
  );
}

async function measureAll(
  cases: readonly Case[],
  providers: readonly Provider[],
  effort: Effort,
  arena: Arena,
  done: (measured: Awaited<ReturnType<typeof measureCase>>) => void,
): Promise<void> {
  const pace = new Pace();
  for (const [i, c] of cases.entries()) {
    const label = `[${i + 1}/${cases.length}] ${caseId(c)}`;
    // Inputs, the results of the package and the copies of the probes, and as much again for what peers allocate.
    const needed = compulsoryBytes(c) * (c.participants.includes('peers') ? 4 : 2);
    if (needed > freemem()) {
      console.error(`${label}: skipped, it needs ${(needed / 2 ** 30).toFixed(1)} GiB of free memory`);
      const { participants: _, ...plain } = c;
      done({
        measurements: [],
        skipped: [{ case: plain, provider: 'all', threads: 0, reason: 'not enough free memory' }],
      });
      continue;
    }
    const batch = makeBatch(c, arena);
    const measured = await measureCase(
      batch,
      providers.filter((provider) => takesPart(provider, c)),
      effort,
      pace,
    );
    done(measured);
    console.error(`${label}: ${summary(measured.measurements)}`);
    for (const { provider, threads, reason } of measured.skipped)
      console.error(`    ${provider} (${threads}): ${reason}`);
  }
}

/** Adds the extra memory of a call to the measurements of the cases that tell about it. */
function withFootprint(own: Measurement, threads: number, quick: boolean): Measurement {
  const { case: c, kind } = own;
  const telling =
    c.group === 'peers' && c.shape === 'CogVideoX' && c.rows === 1 && c.dtype === 'float32' && c.gradients;
  if (quick || !telling || kind === 'ceiling') return own;
  const extraBytes = footprint(own, threads);
  return extraBytes === undefined ? own : { ...own, extraBytes };
}

function takesPart({ kind, name }: Provider, { participants, gradients }: Case): boolean {
  switch (kind) {
    case 'ceiling':
      // Without gradients both probes read each tensor once.
      return participants.includes('ceilings') && (gradients || name === traffic);
    case 'ours':
      return participants.includes('api') || (participants.includes('ours') && name === 'sdpo into');
    case 'peer':
      return participants.includes('peers');
  }
}

/** undefined outside a git checkout. */
function commitHere(): string | undefined {
  const git = (...args: string[]) =>
    execFileSync('git', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  try {
    const changed = git(
      'status',
      '--porcelain',
      '--untracked-files=no',
      '--',
      ':/native',
      ':/lib',
      ':/benchmarks/*.ts',
      ':/benchmarks/*/*.ts',
    );
    return git('rev-parse', '--short=12', 'HEAD') + (changed === '' ? '' : '+');
  } catch {
    return undefined;
  }
}

function describeMachine(versions: Record<string, string>): Machine {
  return {
    processor: cpus()[0].model.trim(),
    cores: cpus().length,
    memoryBytes: totalmem(),
    system: `Linux ${release().split('-')[0]}`,
    instructionSet: devices()[0].instructionSet as string,
    versions,
  };
}

/** The package's new and reused results, in milliseconds and as shares of the ceilings, for the log. */
function summary(measurements: readonly Measurement[]): string {
  return measurements
    .filter(({ provider }) => provider === 'sdpo' || provider === 'sdpo into')
    .map((own) => {
      const shares = sharesOf(own, measurements);
      const ofTraffic = shares.traffic === undefined ? '' : `, ${percent(shares.traffic)} of the traffic probe`;
      return `${shortName(own)} ${milliseconds(own)}${ofTraffic}`;
    })
    .join('; ');
}
