/**
 * `npm run fuzz`: damages files by the thousands and reports what must not be: an error that is none of the package, a wrong answer, more than a
 * second, or the end of the process.
 *
 *   npm run fuzz -- --target parquet --files 100000 --seed 7 --corpus folder-of-parquet-files
 *   npm run fuzz -- --target parquet --seed 7 --only 4711      one file again, which is then kept
 */

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Fuzzer, type Outcome, TARGETS } from './fuzz.js';

const { values } = parseArgs({
  options: {
    target: { type: 'string', multiple: true, default: Object.keys(TARGETS) },
    files: { type: 'string', default: '20000' },
    seed: { type: 'string', default: '1' },
    from: { type: 'string', default: '0' },
    only: { type: 'string' },
    corpus: { type: 'string' },
    child: { type: 'boolean', default: false },
  },
});

/** A file has to be read or refused within this. */
const MILLISECONDS = 1000;
/** A process that says nothing for so long hangs. */
const PATIENCE = 30_000;
const MEMORY = 2 ** 30;
const REPORT_EVERY = 200;

type Message = { readonly at: number } | { readonly wrong: string } | { readonly counts: Record<string, number> };

const fuzzerOf = async (name: string) => new Fuzzer(await TARGETS[name](values.corpus), Number(values.seed));

/** Does the files of one target from an index on, and tells the parent. */
async function child(): Promise<void> {
  const [name] = values.target;
  const fuzzer = await fuzzerOf(name);
  await fuzzer.begin();
  const counts: Record<string, number> = {};
  const tell = (message: Message) => process.send!(message);
  for (let at = Number(values.from); at < Number(values.files); at++) {
    if (at % REPORT_EVERY === 0) tell({ counts });
    tell({ at });
    const outcome = await fuzzer.run(at);
    if (outcome.milliseconds > MILLISECONDS) tell({ wrong: `${outcome.seed}: ${Math.round(outcome.milliseconds)} ms` });
    if (outcome.result === 'wrong') tell({ wrong: describe(outcome) });
    if (process.memoryUsage.rss() > MEMORY) {
      tell({ wrong: `${process.memoryUsage.rss() / 2 ** 20} MiB of memory` });
      break;
    }
    counts[outcome.result] = (counts[outcome.result] ?? 0) + 1;
  }
  tell({ counts });
  fuzzer.end();
  process.disconnect();
}

function describe({ seed, error }: Outcome): string {
  return `${seed}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`;
}

/** Does all files of a target, in processes that are replaced where they end. */
async function parent(name: string): Promise<number> {
  let from = Number(values.from);
  let bad = 0;
  const total: Record<string, number> = {};
  const report = (at: number, what: string) => {
    bad++;
    console.log(`${name} --seed ${values.seed} --only ${at}: ${what}`);
  };
  while (from < Number(values.files)) {
    const args = ['--child', '--target', name, '--files', values.files, '--seed', values.seed, '--from', String(from)];
    if (values.corpus !== undefined) args.push('--corpus', values.corpus);
    const worker = fork(fileURLToPath(import.meta.url), args);
    let at = from - 1;
    let counts: Record<string, number> = {};
    const timer = setTimeout(() => worker.kill('SIGKILL'), PATIENCE);
    worker.on('message', (message: Message) => {
      timer.refresh();
      if ('at' in message) at = message.at;
      else if ('wrong' in message) report(at, message.wrong);
      else counts = message.counts;
    });
    const [code, signal] = await once(worker, 'close');
    clearTimeout(timer);
    for (const [result, count] of Object.entries(counts)) total[result] = (total[result] ?? 0) + count;
    if (code !== 0) report(at, `the process ended with ${signal ?? code}`);
    if (code !== 0 && at < from) return bad; // it did not even begin
    from = at + 1;
  }
  console.log(name, total, `${bad} wrong`);
  return bad;
}

/** Shows one file and what comes of it. */
async function only(name: string, index: number): Promise<void> {
  const fuzzer = await fuzzerOf(name);
  await fuzzer.begin();
  const path = `fuzz-${name}-${values.seed}-${index}`;
  writeFileSync(path, fuzzer.damaged(index).bytes);
  console.log(path, await fuzzer.run(index));
  fuzzer.end();
}

if (values.child) await child();
else if (values.only !== undefined) await only(values.target[0], Number(values.only));
else {
  let bad = 0;
  for (const name of values.target) bad += await parent(name);
  process.exitCode = bad > 0 ? 1 : 0;
}
