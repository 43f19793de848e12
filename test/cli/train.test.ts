/** `sdpo train` as a user starts it: what it prints, what it leaves, and how it ends. */

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { decodeSafetensors, encodeSafetensors } from '../../lib/index.js';
import { built, jsonLines, sdpo, start, writeConfig } from '../helpers/cli-runs.js';

const read = (...path: string[]) => readFileSync(join(...path));
const readJson = (...path: string[]) => JSON.parse(readFileSync(join(...path), 'utf8'));

t.test('lines, files and summary of a run', async (t) => {
  const folder = t.testdir();
  const evaluation = { module: 'linear-evaluation.js', every: 6, atStart: true };
  const config = writeConfig(folder, { evaluation, training: { ema: { decay: 0.9 } } });
  const { status, stdout, stderr } = await sdpo(['train', config, '--log-every', '4', '--profile']);
  t.equal(status, 0, stderr);
  const lines = stderr.trim().split('\n');
  t.same(
    lines.map((line) => /^step (\d+)\/12 {2}(evaluation|loss)/.exec(line)?.slice(1).join(' ')),
    ['0 evaluation', '4 loss', '6 evaluation', '8 loss', '12 loss', '12 evaluation'],
  );
  t.match(lines[1], /accuracy \S+ {2}margin \S+ {2}masked \S+ {2}gradient \S+ {2}\S+ steps\/s, about \S+ s left$/);
  t.match(stdout, /^Time of an update:\n(.*\n)+Everything that is not the policy: \S+ % of an update\.\n/);
  t.match(stdout, /^policy +\S+ ms +\S+ %$/m);
  t.match(stdout, /^Finished at step 12 of 12: 12 steps in \S+ s, loss \S+$/m);

  const run = join(folder, 'run');
  const files = ['checkpoints', 'config.json', 'environment.json', 'metrics.jsonl', 'summary.json'];
  t.same(readdirSync(run).sort(), [...files, 'weights-average.safetensors', 'weights.safetensors'].sort());
  const { tensors, metadata } = decodeSafetensors(read(run, 'weights.safetensors'));
  t.same(Object.keys(tensors).sort(), ['bias', 'time', 'weight']);
  t.match(metadata, { step: '12', objective: 'sdpo', weights: 'policy' });
  t.notSame(decodeSafetensors(read(run, 'weights-average.safetensors')).tensors.bias.data, tensors.bias.data);
  t.match(readJson(run, 'environment.json').sessions, [{ node: process.versions.node, sdpo: String }]);
  t.notOk('warnings' in readJson(run, 'summary.json'));
  t.match(readJson(run, 'summary.json'), {
    status: 'finished',
    step: 12,
    metrics: { loss: Number, grad_norm: Number, 'rewards/accuracies': Number },
    evaluation: { norm: Number, evaluated_step: 12 },
    profile: { perStep: { policy: Number, loss: Number }, overheadShare: Number },
  });
  const entries = jsonLines(read(run, 'metrics.jsonl').toString());
  t.equal(entries.filter(({ kind }) => kind === 'train').length, 12);
  t.equal(entries.filter(({ kind }) => kind === 'evaluation').length, 3);
});

t.test('held-out pairs', async (t) => {
  const folder = t.testdir();
  const data = { format: 'module', module: 'linear-data.js', options: { count: 12, seed: 9 } };
  const config = writeConfig(folder, { validation: { data, every: 4, atStart: true, best: 'margin' } });
  const { status, stdout, stderr } = await sdpo(['train', config, '--log-every', '12']);
  t.equal(status, 0, stderr);
  const line = /^step (\d+)\/12 {2}validation: loss \S+ {2}accuracy \S+ {2}margin \S+ {2}chosen \S+ {2}rejected \S+$/;
  const lines = stderr.split('\n').filter((text) => text.includes('validation'));
  t.same(
    lines.map((text) => line.exec(text)?.[1]),
    ['0', '4', '8', '12'],
  );
  const held = jsonLines(read(folder, 'run', 'metrics.jsonl').toString()).filter(({ kind }) => kind === 'validation');
  const margins = held.map(({ metrics }) => (metrics as Record<string, number>)['rewards/margins']!);
  const value = Math.max(...margins);
  const best = { step: 4 * margins.indexOf(value), criterion: 'margin', value };
  t.match(readJson(folder, 'run', 'summary.json').validation, { metrics: { 'rewards/margins': margins[3] }, best });
  t.match(stdout, new RegExp(`^Best on the held-out pairs: step ${best.step}, margin \\S+$`, 'm'));
  const again = await sdpo(['train', config, '--resume', '--json']);
  t.same(
    (jsonLines(again.stdout).at(-1)!.summary as (typeof held)[0]).validation,
    { best },
    'a run that is done knows it',
  );

  const wrong = (...set: string[]) => sdpo(['train', config, ...set.flatMap((assignment) => ['--set', assignment])]);
  const stream = await sdpo(['train', config, '--out', join(folder, 'b'), '--set', 'validation.data.export=stream']);
  t.match(stream, {
    status: 2,
    stderr: /^Expected validation\.data\.module to give a PairDataset, received a PairStream/,
  });
  const none = await sdpo(['train', config, '--out', join(folder, 'c'), '--set', 'validation.data.export=list']);
  t.match(none, { status: 2, stderr: /^Expected validation\.data\.module to give a PairDataset or a PairStream, / });
  t.match(await wrong('validation.best=beauty'), { status: 2, stderr: /^ {2}Expected validation\.best to be one of/m });
});

/** Images of one pixel, of which only the beginnings are looked at. */
const PREVIEW_POLICY = `
  import linear from ${JSON.stringify(new URL('../helpers/linear-policy.js', import.meta.url).href)};
  const png = Buffer.from('iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+kcQAAAABJRU5ErkJggg==', 'base64');
  const make = (options, context) => linear({}, context);
  export default (options, context) => {
    const policy = make(options, context);
    const preview = ({ step, seed, pairs }) =>
      pairs.map(({ id }) => Buffer.concat([png, Buffer.from([step, seed, id, policy.weights().bias.data[0]].join())]));
    return Object.assign(policy, { preview });
  };
  export const jpeg = (options, context) =>
    Object.assign(make(options, context), { preview: () => [Uint8Array.of(0xff, 0xd8, 0xff, 0xe0), new TextEncoder().encode('RIFF0000WEBPVP8 ')] });
  export const text = (options, context) => Object.assign(make(options, context), { preview: () => [new TextEncoder().encode('GIF89a')] });
  export const none = (options, context) => Object.assign(make(options, context), { preview: () => undefined });
  let drawn = 0;
  export const failing = (options, context) => Object.assign(make(options, context), { preview: () => { if (drawn++ > 0) throw new Error('no decoder'); return []; } });
`;

t.test('a policy draws samples at each validation', async (t) => {
  const folder = t.testdir({ 'policy.mjs': PREVIEW_POLICY });
  const data = { format: 'module', module: 'linear-data.js', options: { count: 3, seed: 9 } };
  const config = writeConfig(folder, {
    policy: { module: join(folder, 'policy.mjs') },
    validation: { data, every: 4, atStart: true, previews: 2 },
  });
  const run = (name: string, ...set: string[]) =>
    sdpo(['train', config, '--quiet', '--out', join(folder, name), ...set.flatMap((one) => ['--set', one])]);
  const drawn = (name: string) =>
    readdirSync(join(folder, name, 'previews'))
      .sort()
      .map((file) => [file, read(folder, name, 'previews', file).toString('base64')]);
  t.match(await run('whole'), { status: 0, stderr: '' });
  const files = drawn('whole');
  t.same(
    files.map(([file]) => file),
    [0, 12, 4, 8].flatMap((step) => [`${step}-0.png`, `${step}-1.png`]),
  );
  t.match(
    read(folder, 'whole', 'previews', '8-1.png').toString('latin1'),
    /8,0,pair 1,\S+$/,
    'of its step, seed and pair',
  );
  t.match(await run('parts', 'training.steps=6'), { status: 0 });
  t.match(await sdpo(['train', config, '--quiet', '--out', join(folder, 'parts'), '--resume']), { status: 0 });
  t.same(drawn('parts'), files, 'a run that goes on draws the same');
  t.match(await run('other', 'policy.export=jpeg', 'training.steps=4'), { status: 0 });
  t.same(
    drawn('other').map(([file]) => file),
    ['0-0.jpg', '0-1.webp', '4-0.jpg', '4-1.webp'],
  );
  t.match(await run('off', 'validation.previews=0'), { status: 0 });
  t.notOk(existsSync(join(folder, 'off', 'previews')));
  t.match(await run('text', 'policy.export=text'), {
    status: 1,
    stderr: /image 0 of policy\.preview\(\) to be the bytes of a PNG/,
  });
  t.match(await run('none', 'policy.export=none'), {
    status: 1,
    stderr: /result of policy\.preview\(\) to be a list of images/,
  });
  t.match(await run('failing', 'policy.export=failing'), { status: 1, stderr: /no decoder/ });
  const last = jsonLines(read(folder, 'failing', 'metrics.jsonl').toString()).at(-1);
  t.match(last, { step: 4, kind: 'train' }, 'the entry is left to the run that goes on');
  t.match(readJson(folder, 'failing', 'checkpoints', 'checkpoint-4', 'progress.json').progress, {
    validationDue: true,
  });
});

t.test('--json, --quiet and plain lines are the same training', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder);
  const out = (name: string) => ['--out', join(folder, name)];
  const json = await sdpo(['train', config, ...out('json'), '--json']);
  t.match(json, { status: 0, stderr: '' });
  const lines = jsonLines(json.stdout);
  t.equal(lines.length, 13);
  lines.slice(0, 12).forEach((line, i) => {
    t.match(line, { step: i + 1, kind: 'train', metrics: { loss: Number, learning_rate: 1e-3 } });
  });
  t.match(lines[12], { summary: { status: 'finished', step: 12, steps: 12, out: join(folder, 'json') } });
  const sparse = jsonLines((await sdpo(['train', config, ...out('sparse'), '--json', '--log-every', '5'])).stdout);
  t.same(
    sparse.map(({ step }) => step),
    [5, 10, 12, undefined],
  );
  t.match(await sdpo(['train', config, ...out('quiet'), '--quiet']), { status: 0, stdout: '', stderr: '' });
  for (const name of ['sparse', 'quiet']) {
    t.ok(read(folder, name, 'weights.safetensors').equals(read(folder, 'json', 'weights.safetensors')), name);
  }
  await sdpo(['train', config, ...out('seed'), '--quiet', '--set', 'seed=1']);
  t.notOk(read(folder, 'seed', 'weights.safetensors').equals(read(folder, 'json', 'weights.safetensors')), 'seed');
});

t.test('pairs from safetensors files', async (t) => {
  const folder = t.testdir();
  const stack = (phase: number) => ({
    dtype: 'float32' as const,
    shape: [24, 4],
    data: Float32Array.from({ length: 24 * 4 }, (_, i) => Math.sin(phase + 7 * i)),
  });
  writeFileSync(join(folder, 'a.safetensors'), encodeSafetensors({ chosen: stack(0), no: stack(1) }));
  const data = { format: 'safetensors', files: [join(folder, 'a.safetensors')], names: { rejected: 'no' } };
  t.match(await sdpo(['train', writeConfig(folder, { data }), '--quiet']), { status: 0, stderr: '' });
  t.notOk(existsSync(join(folder, 'other')));
  const wrong = writeConfig(folder, { data: { ...data, names: {} } });
  const failed = await sdpo(['train', wrong, '--out', join(folder, 'other'), '--quiet']);
  t.match(failed, { status: 1, stderr: /a\.safetensors to be a file with the tensor 'rejected'/ });
  t.notOk(existsSync(join(folder, 'other')), 'nothing is left behind');
});

t.test('a stream that ends before the training does', async (t) => {
  const folder = t.testdir();
  const data = { format: 'module', module: 'linear-data.js', export: 'stream', options: { count: 30 } };
  const { status, stdout } = await sdpo(['train', writeConfig(folder, { data })]);
  t.equal(status, 0);
  t.match(stdout, /^No more pairs at step 3 of 12/m);
  t.equal(readJson(folder, 'run', 'summary.json').status, 'out-of-pairs');
});

t.test('a training that diverges ends with 3 and says where', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder, { training: { learningRate: { peak: 1e38 } } });
  const { status, stderr, stdout } = await sdpo(['train', config]);
  t.equal(status, 3);
  t.match(stderr, /^Expected finite values in update \d+, received a non-finite value in .*pairs? .*$/m);
  t.match(stdout, /^Diverged at step \d+ of 12/m);
  const json = await sdpo(['train', config, '--out', join(folder, 'json'), '--json']);
  t.equal(json.status, 3);
  const [summary, error] = jsonLines(json.stdout).slice(-2);
  t.match(summary, { summary: { status: 'diverged' } });
  t.match(error, { error: { code: 'ERR_SDPO_DIVERGED', message: /pair/ } });
  t.notOk(existsSync(join(folder, 'run', 'weights.safetensors')), 'no weights that one could mistake for good ones');
  const skip = ['--set', 'training.onNonFinite=skip', '--set', 'training.maxSkipped=2'];
  t.equal((await sdpo(['train', config, '--out', join(folder, 'skip'), '--quiet', ...skip])).status, 3);
});

t.test('a folder that is not empty is refused', async (t) => {
  const folder = t.testdir({ run: { 'notes.txt': 'mine' } });
  const config = writeConfig(folder);
  const plain = await sdpo(['train', config]);
  t.match(plain, { status: 2, stderr: /run to be empty or new, received a folder with 1 entries\n$/ });
  t.match(await sdpo(['train', config, '--resume']), { status: 2, stderr: /to hold a run, received .*without config/ });
  t.same(readdirSync(join(folder, 'run')), ['notes.txt']);
  mkdirSync(join(folder, 'empty'));
  t.equal((await sdpo(['train', config, '--quiet', '--out', join(folder, 'empty')])).status, 0);
  const again = await sdpo(['train', config, '--out', join(folder, 'empty')]);
  t.match(again, { status: 2, stderr: /--resume goes on with the run in it/ });
  t.match(await sdpo(['train', config, '--out', config]), { status: 2, stderr: /to be a folder/ });
});

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  t.test(`${signal} saves a checkpoint and stops, and the run goes on from there`, async (t) => {
    const folder = t.testdir();
    const training = { steps: 400 };
    const config = writeConfig(folder, { training, policy: { module: 'linear-policy.js', options: { delay: 10 } } });
    const run = start(['train', config, '--log-every', '1']);
    await run.printed('step 3/400');
    run.process.kill(signal);
    const { status, stdout, stderr } = await run.ended;
    t.equal(status, 130);
    t.match(stderr, /^Stopping after this step, with a checkpoint/m);
    const stopped = Number(/^Interrupted at step (\d+) of 400/m.exec(stdout)?.[1]);
    t.ok(stopped >= 3 && stopped < 400, `stopped at step ${stopped}`);
    t.match(stdout, /--resume/);
    t.match(readJson(folder, 'run', 'summary.json'), { status: 'interrupted', step: stopped });
    t.notOk(existsSync(join(folder, 'run', 'run.lock')));

    const next = start(['train', config, '--resume', '--log-every', '1']);
    await next.printed(`step ${stopped + 1}/400`);
    next.process.kill('SIGKILL');
    t.match((await next.ended).stderr, new RegExp(`^Goes on after step ${stopped}\\.\nstep ${stopped + 1}/400`));
  });
}

t.test('a second Ctrl-C stops at once, if it is another key press', async (t) => {
  const folder = t.testdir();
  const policy = { module: 'linear-policy.js', options: { delay: 60_000 } };
  const run = start([
    'train',
    writeConfig(folder, { policy, evaluation: { module: 'linear-evaluation.js', every: 9, atStart: true } }),
  ]);
  await run.printed('step 0/12  evaluation');
  run.process.kill('SIGINT');
  run.process.kill('SIGINT');
  await run.printed('Stopping after this step');
  // The step takes a minute; only the second signal can end it before.
  const again = setInterval(() => run.process.kill('SIGINT'), 200);
  const { status } = await run.ended;
  clearInterval(again);
  t.equal(status, 130);
  t.notOk(existsSync(join(folder, 'run', 'summary.json')));
});

t.test('the built package trains without a loader of TypeScript', async (t) => {
  const folder = t.testdir();
  const { status, stderr } = await built(['train', writeConfig(folder), '--quiet']);
  t.equal(status, 0, stderr);
  await sdpo(['train', writeConfig(folder), '--quiet', '--out', join(folder, 'source')]);
  t.ok(read(folder, 'run', 'weights.safetensors').equals(read(folder, 'source', 'weights.safetensors')));
  writeFileSync(join(folder, 'policy.ts'), 'export default (x: number) => x;');
  const typed = await built([
    'train',
    writeConfig(folder, { policy: { module: join(folder, 'policy.ts') } }, 'ts.json'),
    '--out',
    join(folder, 'ts'),
  ]);
  t.equal(typed.status, 2, 'a TypeScript module is explained, or read and found to be no policy');
});

t.test('a bar on a terminal', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder, { evaluation: { module: 'linear-evaluation.js', every: 6 } });
  const command = `"${process.execPath}" --import tsx lib/cli/cli.ts train "${config}"`;
  const { status, stdout, error } = spawnSync('script', ['-qec', command, '/dev/null'], { encoding: 'utf8' });
  if (error !== undefined) {
    t.pass('not run', { skip: 'script (util-linux) is not installed' });
    return;
  }
  t.equal(status, 0, stdout);
  t.match(stdout, /█+ 12\/12 .* steps\/s {2}ETA \S+ {2}loss /);
  t.match(stdout, /step 6: norm /);
  t.match(stdout, /Finished at step 12 of 12/);
});

t.test('a run that cannot learn says so, whatever is printed', async (t) => {
  const folder = t.testdir();
  const helper = JSON.stringify(new URL('../helpers/linear-policy.js', import.meta.url).href);
  writeFileSync(
    join(folder, 'live.mjs'),
    `import make from ${helper};
     export default (options, context) => {
       const policy = make(options, context);
       policy.reference = (inputs) => policy.predict(inputs);
       return policy;
     };`,
  );
  const policy = { module: join(folder, 'live.mjs') };
  const config = writeConfig(folder, { policy, loss: { maskThreshold: 0 }, training: { steps: 20 } });
  const run = (name: string, ...args: string[]) => sdpo(['train', config, '--out', join(folder, name), ...args]);
  const text = /^Warning: Policy and reference predicted exactly the same in the last 10 updates/m;
  const lines = await run('lines');
  t.match(lines, {
    status: 0,
    stderr: text,
    stdout: /^With warnings: live-reference at step 11 \(summary\.json has them\)$/m,
  });
  t.equal(lines.stderr.match(/Warning: /g)?.length, 1, 'once');
  t.match(await run('quiet', '--quiet'), { status: 0, stderr: text, stdout: '' });
  const json = await run('json', '--json');
  const warning = { code: 'live-reference', step: 11, message: /^Policy and reference predicted/ };
  t.equal(json.stderr, '');
  t.match(
    jsonLines(json.stdout).filter((line) => 'warning' in line),
    [{ warning }],
  );
  t.match(readJson(folder, 'json', 'summary.json'), { warnings: [warning] });
});

t.test('names and paths with line breaks and control characters do nothing to the terminal', async (t) => {
  const folder = t.testdir();
  writeFileSync(join(folder, 'evaluate.mjs'), `export default () => () => ({ 'a cat\\nand \\u001b[31mdog': 1 });`);
  const out = join(folder, 'a\nb\u001b[2J');
  const config = writeConfig(folder, { evaluation: { module: join(folder, 'evaluate.mjs'), every: 12 }, out });
  const made = await sdpo(['train', config]);
  t.match(made.stderr, /^step 12\/12 {2}evaluation: a cat\\nand \\u001b\[31mdog 1$/m);
  t.match(made.stdout, /a\\nb\\u001b\[2J: config\.json/);
  const again = await sdpo(['train', config]);
  t.match(
    again.stderr,
    /^Expected .*a\\nb\\u001b\[2J to be empty or new, received a folder with \d+ entries; --resume .*\n$/,
  );
  const missing = await sdpo(['train', config, '--set', 'policy.module=/x\u001b[2J']);
  // biome-ignore lint/suspicious/noControlCharactersInRegex: these are what must not be there
  for (const { stdout, stderr } of [made, again, missing]) t.notMatch(stdout + stderr, /[\u0000-\u0009\u000b-\u001f]/);
});

t.test('a terminal that is closed stops the run in order', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder, {
    training: { steps: 20_000 },
    policy: { module: 'linear-policy.js', options: { delay: 10 } },
  });
  const command = `"${process.execPath}" --import tsx lib/cli/cli.ts train "${config}"`;
  const terminal = spawn('script', ['-qefc', `exec ${command}`, '/dev/null'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const drawn = new Promise<boolean>((resolve) => {
    terminal.on('error', () => resolve(false));
    terminal.stdout.setEncoding('utf8').on('data', (text: string) => {
      if (text.includes('/20000')) resolve(true);
    });
  });
  if (!(await drawn)) {
    t.pass('not run', { skip: 'script (util-linux) is not installed' });
    return;
  }
  terminal.kill('SIGKILL');
  // Nobody waits for the process now: what it leaves last is that its lock is gone.
  const lock = join(folder, 'run', 'run.lock');
  while (existsSync(lock)) await new Promise((resolve) => setTimeout(resolve, 50));
  const { status, step } = readJson(folder, 'run', 'summary.json');
  t.equal(status, 'interrupted');
  t.ok(existsSync(join(folder, 'run', 'checkpoints', `checkpoint-${step}`)));
});
