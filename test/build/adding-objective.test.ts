/** docs/adding-an-objective.md, followed to the letter on a copy of the sources: the blocks apply, the copy builds, and the new objective is right. */

import { spawnSync } from 'node:child_process';
import { cpSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { normalNumbers } from '../helpers/cases.js';
import { close, differenceStep, differenceTolerance, slopeAtZero } from '../helpers/close.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const page = readFileSync(join(root, 'docs/adding-an-objective.md'), 'utf8');

interface Block {
  file: string;
  before: string;
  after: string;
  added: number;
}

/** The blocks of the page that change a file: kept, removed and added lines, as in a diff. */
const blocks: Block[] = [...page.matchAll(/^```diff (\S+)\n(.*?)^```$/gms)].map(([, file, text]) => {
  const lines = text.split('\n').slice(0, -1);
  const side = (sign: '-' | '+') => {
    const kept = lines.filter((line) => line === '' || line.startsWith(' ') || line.startsWith(sign));
    return kept.map((line) => `${line.slice(1)}\n`).join('');
  };
  return { file, before: side('-'), after: side('+'), added: lines.filter((line) => line.startsWith('+')).length };
});

t.test('the page', async (t) => {
  t.ok(blocks.length > 5, 'it has blocks', { blocks: blocks.map(({ file }) => file) });
  const code = blocks.filter(({ file }) => !file.startsWith('docs/'));
  const lines = code.reduce((sum, { added }) => sum + added, 0);
  t.ok(lines <= 35, `${lines} lines of code`);
  const files = (of: RegExp) => new Set(code.filter(({ file }) => of.test(file)).map(({ file }) => file));
  t.same([...files(/^(native\/core\/objectives|lib|test)/)].length, 3, 'an objective is three files');
  t.same([...files(/^(native\/core\/options|native\/c\/|lib)/)].length, 3, 'an option is three files');
  for (const { file, before } of blocks) {
    t.equal(readFileSync(join(root, file), 'utf8').split(before).length - 1, 1, `one place in ${file} for the block`);
  }
  const named = [...page.matchAll(/`((?:native|lib|test|python)\/[\w./-]+\.\w+)`/g)].map(([, file]) => file);
  for (const file of new Set(named)) t.doesNotThrow(() => readFileSync(join(root, file)), `${file} exists`);
});

t.test('the objective that it adds', async (t) => {
  for (const tool of ['cmake', process.env.CXX || 'g++']) {
    if (spawnSync(tool, ['--version']).status !== 0) {
      t.pass('not run', { skip: `there is no ${tool} to build the copy with` });
      return;
    }
  }
  const copy = t.testdir({});
  const names = ['native', 'lib', 'docs', 'schema', 'scripts', 'python/sdpo/tables.json', 'examples/digits/train.json'];
  const files = ['CMakeLists.txt', 'package.json', 'binding.d.ts', 'tsconfig.json', 'tsconfig.build.json'];
  const tests = ['oracle', 'helpers', 'loss/objectives-score.test.ts', 'loss/safeguard.test.ts', 'cli/config.test.ts'];
  for (const name of [...names, ...files, ...tests.map((test) => `test/${test}`)]) {
    const cuda = join(root, 'native/cuda');
    cpSync(join(root, name), join(copy, name), { recursive: true, filter: (from) => from !== cuda });
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
  for (const { file, before, after } of blocks) {
    const path = join(copy, file);
    writeFileSync(
      path,
      readFileSync(path, 'utf8').replace(before, () => after),
    );
  }

  // `npm run build` of the page, without what the objective does not change: no CUDA, no optimisation.
  const addon = run(copy, 'node_modules/.bin/cmake-js', 'compile', '--debug');
  if (!t.equal(addon.status, 0, 'the addon and the C library build', { output: addon.output })) return;
  t.notMatch(addon.output, /warning:/, 'without a warning');
  const types = run(copy, 'node_modules/.bin/tsc', '-p', 'tsconfig.build.json');
  if (!t.equal(types.status, 0, 'lib/ compiles', { output: types.output })) return;

  t.test('its loss and its gradient', async (t) => {
    const normal = normalNumbers(1500);
    const size = 4;
    const [chosen, rejected] = [0, 1].map(() => ({
      policy: Array.from({ length: size }, normal),
      reference: Array.from({ length: size }, normal),
      target: Array.from({ length: size }, normal),
    }));
    const beta = 1.5;
    const temperature = 2;
    const directions = [0, 1].map(() => Array.from({ length: size }, normal));
    const steps = [-2, -1, 1, 2].map((k) => k * differenceStep);
    const moved = (policy: number[], direction: number[], x: number) => policy.map((u, j) => u + x * direction[j]);
    const batches = [
      { chosen, rejected },
      ...steps.map((x) => ({ chosen: { ...chosen, policy: moved(chosen.policy, directions[0], x) }, rejected })),
      ...steps.map((x) => ({ chosen, rejected: { ...rejected, policy: moved(rejected.policy, directions[1], x) } })),
    ];
    const program = `
      import { PreferenceLoss } from './dist/index.js';
      const loss = new PreferenceLoss({ objective: 'apo-zero', beta: ${beta}, apoTemperature: ${temperature} });
      const numbers = (branch) => Object.fromEntries(Object.entries(branch).map(([name, list]) => [name, Float64Array.from(list)]));
      const results = ${JSON.stringify(batches)}.map(({ chosen, rejected }) =>
        loss.evaluate({ timesteps: [1], transition: { omega: [1] }, chosen: numbers(chosen), rejected: numbers(rejected) }));
      console.log(JSON.stringify(results.map(({ loss, gradients }) => ({ loss, gradients: [[...gradients.chosen], [...gradients.rejected]] }))));`;
    const { status, stdout, output } = run(copy, process.execPath, '--input-type=module', '-e', program);
    if (!t.equal(status, 0, 'dist/ evaluates it', { output })) return;
    const results = JSON.parse(stdout) as { loss: number; gradients: number[][] }[];
    const reward = ({ policy, reference, target }: typeof chosen) => {
      const error = (u: number[]) => u.reduce((sum, value, j) => sum + (value - target[j]) ** 2, 0) / size;
      return ((-beta / 2) * (error(policy) - error(reference))) / temperature;
    };
    const sigmoid = (x: number) => 1 / (1 + Math.exp(-x));
    const expected = 1 - sigmoid(reward(chosen)) + sigmoid(reward(rejected));
    close(t, 'loss', [results[0].loss], [expected], { relative: Number.EPSILON ** 0.75 });
    for (const [k, direction] of directions.entries()) {
      const losses = new Map(steps.map((x, at) => [x, results[1 + k * steps.length + at].loss]));
      const slope = slopeAtZero((x) => losses.get(x) as number, differenceStep);
      const along = direction.reduce((sum, value, j) => sum + value * results[0].gradients[k][j], 0);
      t.ok(Math.abs(along) > 1e3 * (differenceTolerance(1).absolute as number), 'there is a gradient to speak of');
      close(t, k === 0 ? 'chosen' : 'rejected', [along], [slope], differenceTolerance(slope));
    }
  });

  t.test('what is made of the tables, and the tests that the page names', async (t) => {
    const tables = run(copy, process.execPath, '--import', 'tsx', 'scripts/tables.ts');
    t.equal(tables.status, 0, tables.output);
    const read = (file: string) => readFileSync(join(copy, file), 'utf8');
    t.match(JSON.parse(read('schema/train.schema.json')).properties.loss.properties.apoTemperature, {
      description: /^τ > 0/,
      type: 'number',
      exclusiveMinimum: 0,
      default: 1,
    });
    const python = JSON.parse(read('python/sdpo/tables.json'));
    t.same(python.traits['apo-zero'].reference, true);
    t.ok(python.options.some(({ name }: { name: string }) => name === 'apoTemperature'));
    for (const test of ['loss/objectives-score', 'loss/safeguard', 'cli/config']) {
      const { status, output } = run(copy, process.execPath, '--import', 'tsx', `test/${test}.test.ts`);
      t.equal(status, 0, test, { output });
      if (test !== 'loss/objectives-score') continue;
      const passed = [...output.matchAll(/^ok \d+ - apo-zero: ([\w ,]+)/gm)].map(([, name]) => name.trim());
      t.ok(passed.includes('every combination of options'), 'the new objective is among them', { passed });
    }
    const names = `
      import { OBJECTIVES } from './lib/loss/options.ts';
      import * as scores from './test/oracle/score.ts';
      import * as others from './test/oracle/oracle.ts';
      console.log(JSON.stringify([OBJECTIVES.toSorted(), [...others.objectives, ...scores.objectives].toSorted()]));`;
    const listed = run(copy, process.execPath, '--import', 'tsx', '--input-type=module', '-e', names);
    const [library, oracles] = JSON.parse(listed.stdout);
    t.same(oracles, library, 'the addon, lib/ and the oracles have the same names');
    t.ok(library.includes('apo-zero'));
  });
});

function run(
  cwd: string,
  program: string,
  ...options: string[]
): { status: number | null; stdout: string; output: string } {
  const clean = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(NODE_OPTIONS|SDPO_|TAP)/.test(name)),
  );
  // Without tap's own limit of 30 s, which a busy machine exceeds; the limit of this test ends them.
  const env = { ...clean, SDPO_CUDA: 'OFF', CMAKE_BUILD_PARALLEL_LEVEL: '2', TAP_TIMEOUT: '900' };
  const { status, stdout, stderr } = spawnSync(program, options, { cwd, encoding: 'utf8', env, maxBuffer: 2 ** 26 });
  return { status, stdout, output: stdout + stderr };
}
