/** The digits experiment as a user starts it: what it prints and writes, that the numbers are its own, and that Ctrl-C ends it cleanly. */

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath, pathToFileURL } from 'node:url';
import t from 'tap';
import { loadDigits } from '../../examples/digits/data.js';
import { Evaluator } from '../../examples/digits/evaluation.js';
import { type Method, TITLES } from '../../examples/digits/finetune.js';
import { JUDGE_SHAPES } from '../../examples/digits/judge.js';
import { DENOISER_SHAPES } from '../../examples/digits/model.js';
import { readOptions, UsageError } from '../../examples/digits/options.js';
import { loadWeights, WEIGHTS_FOLDER } from '../../examples/digits/weights.js';
import { decodeSafetensors } from '../../lib/tensor/safetensors.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const STEPS = 5;
const SAMPLES = 32;
const METHODS = Object.keys(TITLES) as Method[];

interface Finished {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Starts a script of the example; `until` may act on the running process, for example send it a signal. */
async function start(
  args: readonly string[],
  { script = 'run.ts', until }: { script?: string; until?: (child: ChildProcess) => Promise<void> } = {},
) {
  const child = spawn(process.execPath, ['--import', 'tsx', `examples/digits/${script}`, ...args], { cwd: root });
  const finished: Finished = { code: null, stdout: '', stderr: '' };
  child.stdout.on('data', (data) => {
    finished.stdout += data;
  });
  child.stderr.on('data', (data) => {
    finished.stderr += data;
  });
  const closed = once(child, 'close');
  await until?.(child);
  [finished.code] = await closed;
  return finished;
}

function readLines(folder: string): Record<string, unknown>[] {
  const text = readFileSync(join(folder, 'metrics.jsonl'), 'utf8');
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line));
}

interface Summary {
  interrupted: boolean;
  outcomes: { name: string; reward: number; valid: number; good: number; implicitAccuracy: number; steps?: number }[];
}

function readSummary(folder: string): Summary {
  return JSON.parse(readFileSync(join(folder, 'summary.json'), 'utf8'));
}

t.test('a short run writes what it says', async (t) => {
  const folder = t.testdir();
  const few = ['--steps', String(STEPS), '--samples', String(SAMPLES)];
  const { code, stdout, stderr } = await start([...few, '--out', folder]);
  t.equal(code, 0, stderr);

  const lines = readLines(folder);
  t.same(
    lines.map(({ method, step }) => `${method} ${step}`),
    METHODS.flatMap((method) => Array.from({ length: STEPS }, (_, i) => `${method} ${i + 1}`)),
    'one line per method and step',
  );
  for (const line of lines) {
    for (const name of [
      'loss',
      'grad_norm',
      'rewards/chosen',
      'rewards/rejected',
      'rewards/margins',
      'rewards/accuracies',
    ]) {
      t.ok(Number.isFinite(line[name]), `${line.method} ${line.step}: ${name} is a number`);
    }
  }
  // Every row's loss is ln 2 and every margin 0; the mean of 32 rows may round 32 times.
  const first = lines[0] as Record<string, number>;
  t.ok(Math.abs(first.loss - Math.LN2) <= 32 * Number.EPSILON, `the first step starts at the base: ${first.loss}`);
  t.match(first, { 'rewards/margins': 0, 'rewards/accuracies': 0.5 });
  t.ok((lines[STEPS - 1]['rewards/margins'] as number) > 0, 'and the policy moves away from it');

  const summary = readSummary(folder);
  t.equal(summary.interrupted, false);
  t.same(
    summary.outcomes.map(({ name }) => name),
    ['base', ...METHODS],
  );
  for (const { name, reward, valid, good, implicitAccuracy } of summary.outcomes) {
    const row = [reward, valid, good, implicitAccuracy].map((value) => value.toFixed(3)).join(' +');
    const title = TITLES[name as Method] ?? name;
    t.ok(
      stdout
        .split('\n')
        .some((line) => line.startsWith(title) && new RegExp(`^ +${row}$`).test(line.slice(title.length))),
      `the table has the line of ${name}`,
    );
  }

  const picture = readFileSync(join(folder, 'samples.svg'), 'utf8');
  for (const { name, good, implicitAccuracy } of summary.outcomes) {
    const title = name === 'base' ? 'before' : TITLES[name as Method].replace('&', '&amp;');
    const [, band] = picture.split(`>${title}</text>`);
    t.ok(band?.includes(`>${(100 * good).toFixed(1)} %</text>`), `the picture has the numbers of ${title}`);
    if (name !== 'base') t.ok(band?.includes(`>${(100 * implicitAccuracy).toFixed(1)} %</text>`));
  }
  t.ok(stdout.includes(pathToFileURL(join(folder, 'samples.svg')).href), 'and the run says where it is');

  // The summary must be what the written weights give when they are measured again.
  const digits = loadDigits();
  const evaluator = new Evaluator(
    digits,
    loadWeights(new URL('judge.safetensors', WEIGHTS_FOLDER), JUDGE_SHAPES),
    SAMPLES,
  );
  const base = new URL('base.safetensors', WEIGHTS_FOLDER);
  const files = [base, ...METHODS.map((method) => pathToFileURL(join(folder, `${method}.safetensors`)))];
  files.forEach((file, index) => {
    const again = evaluator.evaluate(loadWeights(file, DENOISER_SHAPES));
    const { name, reward, valid, good } = summary.outcomes[index];
    t.same(
      { reward: again.reward, valid: again.valid, good: again.good },
      { reward, valid, good },
      `${name} measured again`,
    );
  });
  const [before, ...after] = files.map((file) => {
    const { data } = decodeSafetensors(readFileSync(file)).tensors['out.weight'];
    return Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  });
  const all = [before, ...after].map((weights) => weights.toString('hex'));
  t.equal(new Set(all).size, all.length, 'every method changed the weights, each in its own way');

  t.test('the seed decides the run', async (t) => {
    const same = t.testdir();
    const other = join(same, 'a new', 'folder');
    const runs = await Promise.all([
      start([...few, '--out', same, '--quiet']),
      start([...few, '--out', other, '--quiet', '--seed', '1', '--beta', '20']),
    ]);
    t.same(
      runs.map(({ code, stderr }) => [code, stderr]),
      [
        [0, ''],
        [0, ''],
      ],
      'quiet runs say nothing of their progress',
    );
    t.same(readLines(same), lines, 'the same seed gives the same metrics');
    for (const method of METHODS) {
      const [first, second] = [folder, same].map((place) => readFileSync(join(place, `${method}.safetensors`)));
      t.ok(first.equals(second), `and the same ${method} weights, bit by bit`);
    }
    t.not(readLines(other)[1].loss, lines[1].loss, 'another seed gives others');
    t.same(readSummary(other).outcomes[0], summary.outcomes[0], 'but measures the base on the same noise');
  });
});

t.test('Ctrl-C finishes the step, keeps what there is and exits with 130', async (t) => {
  const folder = t.testdir();
  const metrics = join(folder, 'metrics.jsonl');
  const { code, stdout, stderr } = await start(['--steps', '100000', '--samples', String(SAMPLES), '--out', folder], {
    async until(child) {
      const running = () => child.exitCode === null && !(existsSync(metrics) && statSync(metrics).size > 0);
      while (running()) await delay(50);
      // Twice, as it arrives under npm: from the terminal and passed on.
      child.kill('SIGINT');
      child.kill('SIGINT');
    },
  });
  t.equal(code, 130, stderr);
  t.match(stderr, /Stopping after this step/);
  t.match(stdout, /^base +0\.\d{3}/m, 'the base was measured and is reported');
  t.notMatch(stdout, /^SDPO/m, 'what was not reached is not');
  const summary = readSummary(folder);
  t.equal(summary.interrupted, true);
  t.same(
    summary.outcomes.map(({ name }) => name),
    ['base'],
  );
  const steps = readLines(folder).length;
  t.ok(steps > 0 && steps < 100000, `${steps} steps were made`);
  const { tensors, metadata } = decodeSafetensors(readFileSync(join(folder, 'diffusion-dpo.safetensors')));
  t.equal(metadata.steps, String(steps), 'the weights are those after the last line of the metrics');
  t.same(tensors['layer2.weight'].shape, [256, 256]);
  t.notOk(existsSync(join(folder, 'sdpo.safetensors')), 'the next method was not started');
});

t.test('the script that trains the committed weights', async (t) => {
  const folder = t.testdir();
  const few = ['--steps', '2', '--judge-steps', '2', '--out', folder, '--quiet'];
  const { code, stdout, stderr } = await start(few, { script: 'train-base.ts' });
  t.equal(code, 0, stderr);
  t.match(stdout, /^base: reward 0\.\d{3}, valid 0\.000/m, 'two steps make no digits');
  let bytes = 0;
  for (const [name, shapes] of [
    ['base.safetensors', DENOISER_SHAPES],
    ['judge.safetensors', JUDGE_SHAPES],
  ] as const) {
    t.doesNotThrow(() => loadWeights(pathToFileURL(join(folder, name)), shapes), `${name} fits the model`);
    const committed = readFileSync(new URL(name, WEIGHTS_FOLDER));
    t.equal(
      decodeSafetensors(committed).metadata.script,
      'examples/digits/train-base.ts',
      'as the committed file says',
    );
    t.notOk(readFileSync(join(folder, name)).equals(committed));
    bytes += committed.length;
  }
  t.ok(bytes <= 1e6, `the committed weights have ${bytes} bytes`);
});

t.test('the command line', async (t) => {
  const cases: [string[], RegExp][] = [
    [['--steps', '0'], /^Expected --steps to be an integer >= 1, received 0$/],
    [['--steps', '1e3'], /^Expected --steps to be an integer >= 1, received 1e3$/],
    [['--beta', 'high'], /^Expected --beta to be a number > 0, received high$/],
    [['--beta', ''], /^Expected --beta to be a number > 0, received $/],
    [['--pairs', 'N3'], /^Expected --pairs to be one of N1, A, N2, C, S, E, received N3$/],
    [['--stepz', '3'], /^Unknown option '--stepz'.*\nSee npm start -- --help$/],
    [['more'], /^Unexpected argument 'more'.*\nSee npm start -- --help$/],
  ];
  for (const [args, message] of cases) t.throws(() => readOptions(args), { constructor: UsageError, message });
  t.same(readOptions(['--pairs', 'n2', '--seed', '7']), {
    steps: 300,
    beta: 10,
    pairs: 'N2',
    samples: 512,
    seed: 7,
    out: undefined,
    quiet: false,
  });
  const [wrong, help] = await Promise.all([start(['--steps', '0']), start(['--help'])]);
  t.same([wrong.code, wrong.stdout], [2, '']);
  t.equal(
    wrong.stderr,
    'Expected --steps to be an integer >= 1, received 0\n',
    'a mistake is explained without a stack',
  );
  t.equal(help.code, 0);
  t.match(help.stdout, /--steps <n>/);
});
