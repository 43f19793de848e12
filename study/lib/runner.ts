/** Runs a study: its cells in parallel processes, each result in a file of its own, so that whatever stops it, it goes on where it was. */

import { createRequire } from 'node:module';
import { availableParallelism, cpus } from 'node:os';
import { resolve } from 'node:path';
import { checkInteger, checkOptions, configError, failType, lockFolder } from 'sdpo/tools';
import { experimentUrl, plan, planCells, readStudy, selectCells } from './plan.js';
import { ProgressCounter, type StudyProgress, type StudySummary } from './progress.js';
import { problemOfRun, StudyFolder, type StudyRecord } from './run-file.js';
import type { StudyCell, StudyConfig, StudyResults } from './types.js';
import { type Outcome, WorkerProcess } from './worker-process.js';

export interface StudyOptions {
  /** Folder of the results; made where it is missing. */
  out: string;
  /** Processes at a time. Default: the cores. */
  jobs?: number | undefined;
  /** Conditions on the runs, all of which must hold: a part of the id, or `field=value,…` with group, source, beta, arm or seed. Default: all runs. */
  only?: readonly string[] | undefined;
  /** Stops the study; the processes are ended and what is done stays. */
  signal?: AbortSignal | undefined;
  onProgress?: ((progress: StudyProgress) => void) | undefined;
}

/** A cell is tried again once where its process died, which may be the machine's fault; an error that the experiment throws is its answer. */
const ATTEMPTS = 2;

/**
 * Runs what is not done yet of the study that `file` declares. Settles when every cell is done or has failed, or when the signal was aborted.
 * Rejects where the declaration is wrong, another process runs the study in the folder, the experiment cannot be prepared or a file cannot be written.
 */
export async function runStudy(file: string, options: StudyOptions): Promise<StudySummary> {
  const checked = checkStudyOptions(options);
  const { out, only } = checked;
  const config = readStudy(file);
  const cells = only.length === 0 ? planCells(config) : selectCells(plan(config), only);
  // Two processes would make the same runs.
  const lock = lockFolder(out, { name: 'study.lock', onWarning: (message) => process.emitWarning(message) });
  try {
    return await runCells(file, config, cells, checked);
  } finally {
    lock.release();
  }
}

async function runCells(
  file: string,
  config: StudyConfig,
  cells: readonly StudyCell[],
  { out, jobs, signal, onProgress }: ReturnType<typeof checkStudyOptions>,
): Promise<StudySummary> {
  const folder = new StudyFolder(out, config);
  const shared = folder.create();
  const left = cells.filter((cell) => folder.read(cell) === undefined);
  const counter = new ProgressCounter(cells.length, cells.length - left.length, onProgress);
  const { decidingMetric } = config;
  const start = { experiment: experimentUrl(file, config), options: config.options, shared, decidingMetric };
  const pool = new Pool(() => new WorkerProcess({ type: 'start', ...start }));
  const onAbort = () => void pool.stop();
  signal?.addEventListener('abort', onAbort, { once: true });
  try {
    if (signal?.aborted) return counter.summary(true);
    if (left.length === 0 && folder.readRecord()?.options === folder.options) return counter.summary(false);
    const record = await prepare(file, config, folder, pool, counter, jobs);
    if (record !== undefined) {
      await pool.each(Math.min(jobs, left.length), left, async (cell, worker) => {
        let outcome: Outcome | undefined;
        for (let attempt = 1; attempt <= ATTEMPTS && !pool.stopped; attempt++) {
          outcome = await counter.run(cell, (tell) => worker().run(cell, tell));
          if (outcome.type !== 'died') break;
        }
        if (!pool.stopped) counter.finish(cell, await keep(outcome!, cell, folder, record));
      });
      if (left.length > 0) await folder.writeRecord(dated(record));
    }
  } finally {
    signal?.removeEventListener('abort', onAbort);
    await pool.stop();
  }
  return counter.summary(signal?.aborted ?? false);
}

/** Lets the experiment make what the runs share and says what it measures; undefined where it was stopped. */
async function prepare(
  file: string,
  config: StudyConfig,
  folder: StudyFolder,
  pool: Pool,
  counter: ProgressCounter,
  jobs: number,
): Promise<StudyRecord | undefined> {
  const worker = pool.take();
  const outcome = await counter.prepare((tell) => worker.prepare(tell));
  if (pool.stopped) return undefined;
  if (outcome.type !== 'prepared') throw new Error(`The experiment could not be prepared: ${errorOf(outcome)}`);
  const { metrics, sources } = outcome;
  const unknown = (path: string, name: string, known: object) =>
    configError(`Expected ${path} of ${file} to be one of ${Object.keys(known).join(', ')}, received ${name}`);
  if (!(config.decidingMetric in metrics)) throw unknown('decidingMetric', config.decidingMetric, metrics);
  for (const source of config.groups.flatMap((group) => group.sources)) {
    if (!(source in sources)) throw unknown('a source', source, sources);
  }
  pool.giveBack(worker);
  const environment = describeEnvironment(jobs, folder.readRecord());
  const record = { file: resolve(file), options: folder.options, metrics, sources, environment };
  await folder.writeRecord(record);
  return record;
}

/** Writes what came of a cell; gives the reason where it failed. */
async function keep(
  outcome: Outcome,
  cell: StudyCell,
  folder: StudyFolder,
  { metrics }: StudyRecord,
): Promise<string | undefined> {
  const problem = outcome.type === 'run' ? problemOfRun(outcome.run, metrics, folder.decidingMetric) : errorOf(outcome);
  if (problem !== undefined) await folder.writeFailure(cell, problem);
  else if (outcome.type === 'run') await folder.write({ ...outcome.run, cell });
  return problem;
}

function errorOf(outcome: Outcome): string {
  return 'error' in outcome ? outcome.error : `an answer that was not asked for (${outcome.type})`;
}

/** The processes of a study. */
class Pool {
  readonly #start: () => WorkerProcess;
  readonly #all = new Set<WorkerProcess>();
  readonly #idle: WorkerProcess[] = [];
  /** True from the moment the study has to end; no process is started after it. */
  stopped = false;

  constructor(start: () => WorkerProcess) {
    this.#start = start;
  }

  /** A process that has nothing to do. */
  take(): WorkerProcess {
    const worker = this.#idle.pop() ?? this.#start();
    this.#all.add(worker);
    return worker;
  }

  giveBack(worker: WorkerProcess): void {
    this.#idle.push(worker);
  }

  /** Does `work` with every item, in order, in so many lanes; `worker` gives the process of the lane, a new one where it has died. */
  async each<T>(
    lanes: number,
    items: readonly T[],
    work: (item: T, worker: () => WorkerProcess) => Promise<void>,
  ): Promise<void> {
    const queue = [...items];
    const lane = async () => {
      let own: WorkerProcess | undefined;
      const worker = () => {
        if (own === undefined || own.ended) own = this.take();
        return own;
      };
      while (!this.stopped && queue.length > 0) await work(queue.shift()!, worker);
      await own?.stop();
    };
    await Promise.all(Array.from({ length: lanes }, lane));
  }

  async stop(): Promise<void> {
    this.stopped = true;
    await Promise.all([...this.#all].map((worker) => worker.stop()));
  }
}

function checkStudyOptions(options: StudyOptions) {
  const given = checkOptions('options', options, ['out', 'jobs', 'only', 'signal', 'onProgress']);
  const { out, jobs = availableParallelism(), only = [], signal, onProgress } = given;
  if (typeof out !== 'string' || out === '') failType('options.out', 'the path of a folder', out);
  checkInteger('options.jobs', jobs, 1, 1024);
  if (!Array.isArray(only)) failType('options.only', 'an array of strings', only);
  if (signal !== undefined && !(signal instanceof AbortSignal)) failType('options.signal', 'an AbortSignal', signal);
  return { out, jobs, only: only as readonly string[], signal, onProgress };
}

function describeEnvironment(jobs: number, before: StudyRecord | undefined): StudyResults['environment'] {
  return {
    sdpo: sdpoVersion(),
    node: process.versions.node,
    system: `${process.platform}-${process.arch}`,
    processor: cpus()[0]?.model.trim() || 'unknown',
    cores: cpus().length,
    processes: jobs,
    started: before?.environment.started ?? today(),
  };
}

/** The version of the package whose loss the runs are made with. */
function sdpoVersion(): string {
  return (createRequire(import.meta.url)('sdpo/package.json') as { version: string }).version;
}

function dated(record: StudyRecord): StudyRecord {
  return { ...record, environment: { ...record.environment, finished: today() } };
}

function today(): string {
  return new Date().toISOString().slice(0, 10);
}

/** The runs of a study that are in its folder and belong to its declaration as it is now. */
export function collectResults(file: string, out: string): StudyResults {
  const config: StudyConfig = readStudy(file);
  const folder = new StudyFolder(out, config);
  const record = folder.readRecord();
  const runs = planCells(config).flatMap((cell) => folder.read(cell) ?? []);
  if (record === undefined || runs.length === 0)
    throw configError(`Expected ${out} to hold runs of ${file}, found none`);
  const { metrics, sources, environment } = record;
  return { title: config.title, config, metrics, sources, environment, runs };
}
