/** One list of names everywhere: the addon's tables, lib/ and the oracles. And sizes beyond 32 bits, in a program of its own. */

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import {
  DTYPES,
  type Evaluation,
  LINKS,
  OBJECTIVES,
  PAIR_WEIGHTS,
  PreferenceLoss,
  WEIGHT_RATIOS,
} from '../../lib/index.js';
import { binding } from '../../lib/native/binding.js';
import { checkContract, checkList, LISTS, rowInput } from '../../lib/native/contract.js';
import { LOG_RATIO_REDUCTIONS, METRICS, ROW_STATISTICS, SCOPES, TIMESTEP_WEIGHTINGS } from '../../lib/native/names.js';
import { generated } from '../../scripts/tables.js';
import { largeBatch } from '../helpers/batches.js';
import { dtypes } from '../helpers/dtypes.js';
import * as oracle from '../oracle/oracle.js';
import * as scoreOracle from '../oracle/score.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const native = binding.tables as unknown as Record<string, readonly string[]>;

t.test('the tables of the addon are those of lib/', async (t) => {
  for (const [name, list] of Object.entries(LISTS)) t.same(native[name], list, name);
  for (const [name, list] of Object.entries(native)) {
    if (name !== 'rowChecks') t.equal(new Set(list).size, list.length, `${name}: no name twice`);
  }
  t.equal(native.rowChecks.length, native.rowInputs.length, 'a check for every number per row');
  t.equal(binding.rowDefaults.length, native.rowInputs.length, 'and a default');
});

t.test('an addon built from other sources is refused when it is loaded', async (t) => {
  t.doesNotThrow(() => checkContract(native));
  t.throws(() => rowInput('omegaBoth'), { code: 'ERR_SDPO_NO_BINARY', message: /'rowInputs' to have 'omegaBoth'/ });
  t.throws(() => checkList('objectives', ['sdpo'], native.objectives), { message: /'objectives' to be \[sdpo\]/ });
  for (const name of [...Object.keys(LISTS), 'rowOutputs']) {
    const list = native[name];
    for (const [what, other] of [
      ...(name === 'rowOutputs' ? [] : ([['longer', [...list, 'more']]] as const)),
      ['shorter', list.slice(1)],
      ['in another order', [...list.slice(1), list[0]]],
      ['missing', undefined],
    ] as const) {
      t.throws(
        () => checkContract({ ...native, [name]: other as readonly string[] }),
        { code: 'ERR_SDPO_NO_BINARY', message: new RegExp(`'${name}'.*npm run build:native`) },
        `${name} ${what}`,
      );
    }
  }
});

t.test('what is made of the tables is up to date', async (t) => {
  for (const [file, text] of Object.entries(generated)) {
    t.equal(readFileSync(file, 'utf8'), text(), `${relative(root, file)}, else write it again: npm run tables`);
  }
});

t.test('the oracles of the tests know the same names', async (t) => {
  const lists: Record<string, [readonly string[], readonly string[]]> = {
    objectives: [[...oracle.objectives, ...scoreOracle.objectives], OBJECTIVES],
    links: [oracle.links, LINKS],
    pairWeights: [oracle.pairWeights, PAIR_WEIGHTS],
    weightRatios: [oracle.weightRatios, WEIGHT_RATIOS],
    scopes: [oracle.scopes, SCOPES],
    timestepWeightings: [oracle.timestepWeightings, TIMESTEP_WEIGHTINGS],
    logRatioReductions: [oracle.logRatioReductions, LOG_RATIO_REDUCTIONS],
    dtypes: [dtypes, DTYPES],
  };
  for (const [name, [inOracle, inLibrary]] of Object.entries(lists))
    t.same([...inOracle].sort(), [...inLibrary].sort(), name);
});

t.test('a result has the statistics and metrics that are listed, and no others', async (t) => {
  const result: Evaluation = new PreferenceLoss({ objective: 'sdpo', beta: 1 }).evaluate(largeBatch(2, 5, 'float32'));
  t.same(Object.keys(result.rows), ROW_STATISTICS);
  t.same(Object.keys(result.metrics), METRICS);
  for (const [name, column] of Object.entries(result.rows)) t.equal(column.length, 2, name);
});

t.test('sizes beyond 32 bits', async (t) => {
  const compiler = process.env.CXX || 'g++';
  const { status } = spawnSync(compiler, ['--version']);
  if (status !== 0) {
    t.comment(`skipped: there is no C++ compiler (${compiler}) to build test/build/native/large.cc with`);
    t.pass('not run', { skip: `no ${compiler}` });
    return;
  }
  const objects = coreObjects();
  if (objects === undefined) {
    t.pass('not run', { skip: 'the objects of the core are not in build/: npm run build:native makes them' });
    return;
  }
  const program = join(t.testdir({}), 'large');
  const flags = ['-std=c++17', '-O2', '-Wall', '-Wextra', `-I${join(root, 'native')}`];
  const build = spawnSync(
    compiler,
    [...flags, join(root, 'test/build/native/large.cc'), ...objects, '-pthread', '-o', program],
    {
      encoding: 'utf8',
    },
  );
  t.same({ status: build.status, errors: build.stderr }, { status: 0, errors: '' }, 'it compiles without a warning');
  const run = spawnSync(program, { encoding: 'utf8' });
  t.equal(run.signal, null);
  for (const line of run.stdout.trim().split('\n')) {
    const [, verdict, what] = /^(ok|not ok|skip) (.*)$/.exec(line) ?? [undefined, 'not ok', `unreadable line: ${line}`];
    if (verdict === 'skip') t.pass(what, { skip: 'not enough memory' });
    else t.equal(verdict, 'ok', what);
  }
  t.equal(run.status, 0, run.stderr);
});

/** The object files of the CPU backend that the addon was linked from, compiled for each instruction set as CMakeLists.txt says. */
function coreObjects(): string[] | undefined {
  const folder = join(root, 'build/CMakeFiles/sdpo_core.dir/native/cpu');
  if (!existsSync(folder)) return undefined;
  return readdirSync(folder)
    .filter((file) => file.endsWith('.o'))
    .map((file) => join(folder, file));
}
