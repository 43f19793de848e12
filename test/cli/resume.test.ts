/** `sdpo train --resume`: a run that is killed at any moment becomes the run that was never killed, and a changed config is refused. */

import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { jsonLines, sdpo, start, writeConfig } from '../helpers/cli-runs.js';

const FILES = ['weights.safetensors', 'weights-average.safetensors', 'metrics.jsonl'];
const KILLS = 6;

t.test('kill -9 at random moments', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder, {
    policy: { module: 'linear-policy.js', options: { delay: 3 } },
    loss: { maskThreshold: 0.5 },
    training: {
      ...{ steps: 150, timestepsPerPair: 2, accumulate: 2, ema: { decay: 0.99 }, logBinsEvery: 7 },
      learningRate: { peak: 3e-3, warmupSteps: 10, decay: 'cosine', final: 1e-4 },
    },
    evaluation: { module: 'linear-evaluation.js', every: 4 },
    validation: {
      data: { format: 'module', module: 'linear-data.js', options: { count: 12, seed: 9 } },
      ...{ every: 5, timestepsPerPair: 2, batchSize: 5 },
    },
    checkpoints: { every: 3, keep: 2 },
  });
  const whole = join(folder, 'whole');
  // A toy of this kind gets worse at everything, which is said and does not matter here.
  t.match(await sdpo(['train', config, '--out', whole, '--quiet']), { status: 0, stderr: /^(Warning: .*\n)*$/ });

  const broken = ['train', config, '--out', join(folder, 'broken'), '--resume', '--json'];
  const stoppedAt: number[] = [];
  for (let kill = 0; kill < KILLS; kill++) {
    const run = start(broken);
    // The first one dies before it has begun, wherever that is; the others some steps later, within a step, a log entry or a checkpoint.
    const lines = kill === 0 ? 0 : 1 + Math.floor(25 * Math.random());
    let seen = 0;
    await Promise.race([
      run.ended,
      new Promise<void>((resolve) => {
        if (lines === 0) setTimeout(resolve, 400 * Math.random());
        run.process.stdout!.on('data', (text: string) => {
          seen += text.split('\n').length - 1;
          if (lines > 0 && seen >= lines) setTimeout(resolve, 8 * Math.random());
        });
      }),
    ]);
    run.process.kill('SIGKILL');
    const { signal, status, stdout, stderr } = await run.ended;
    t.equal(signal, 'SIGKILL', `killed (${status}) ${stderr}`);
    stoppedAt.push(Number(jsonLines(stdout.slice(0, stdout.lastIndexOf('\n') + 1)).at(-1)?.step ?? 0));
  }
  const last = await sdpo(broken);
  t.equal(last.status, 0, last.stderr);
  t.comment(`killed after the steps ${stoppedAt.join(', ')}`);
  t.ok(Number(jsonLines(last.stdout)[0].step) > 1, 'the last process went on from a checkpoint');
  for (const name of FILES) {
    const [a, b] = [whole, join(folder, 'broken')].map((run) => readFileSync(join(run, name)));
    t.ok(a.equals(b), `${name} is the same, byte for byte`, { stoppedAt });
  }
  const [best, again] = [whole, join(folder, 'broken')].map(
    (run) => JSON.parse(readFileSync(join(run, 'summary.json'), 'utf8')).validation.best,
  );
  t.match(best, { step: Number, criterion: 'loss', value: Number });
  t.same(again, best, 'the best step is the same');
  const sessions = JSON.parse(readFileSync(join(folder, 'broken', 'environment.json'), 'utf8')).sessions;
  t.ok(sessions.length >= 2, 'each start is on record');
});

t.test('what may change and what may not', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder);
  t.equal((await sdpo(['train', config, '--quiet'])).status, 0);
  const resume = (...set: string[]) =>
    sdpo(['train', config, '--resume', ...set.flatMap((assignment) => ['--set', assignment])]);
  const refused: [string, RegExp][] = [
    ['loss.beta=11', /^Expected loss\.beta to be 10, as in the run .*config\.json\), received 11$/m],
    ['training.pairsPerStep=4', /^Expected training\.pairsPerStep to be 8, .* received 4$/m],
    ['seed=1', /^Expected seed to be 0, .* received 1$/m],
    ['data.options.count=32', /^Expected data\.options to be undefined, .* received \{"count":32\}$/m],
    ['loss.klWeight=1', /^Expected loss\.klWeight to be 0, .* received 1$/m],
    ['base=/', /^Expected base to be .*helpers", .* received "\/"$/m],
    ['training.learningRate.decay=cosine', /^Expected training\.(learningRate\.decay|steps) to be/m],
  ];
  for (const [set, message] of refused) t.match(await resume(set), { status: 2, stdout: '', stderr: message }, set);

  const done = await resume();
  t.match(done, { status: 0, stdout: /^Finished at step 12 of 12: 0 steps/ });
  const more = await resume('training.steps=20', 'checkpoints.every=4', 'loss.threads=1');
  t.match(more, { status: 0, stdout: /^Finished at step 20 of 20: 8 steps/ });
  const whole = join(folder, 'whole');
  await sdpo(['train', config, '--quiet', '--out', whole, '--set', 'training.steps=20']);
  for (const name of ['weights.safetensors', 'metrics.jsonl']) {
    t.ok(readFileSync(join(whole, name)).equals(readFileSync(join(folder, 'run', name))), name);
  }
});

t.test('a new run goes on from a checkpoint of another with other settings', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder, { checkpoints: { every: 4, keep: 9 } });
  t.equal((await sdpo(['train', config, '--quiet'])).status, 0);
  const from = join(folder, 'run', 'checkpoints', 'checkpoint-8');
  const other = ['train', config, '--from-checkpoint', from, '--out', join(folder, 'other')];
  const set = [
    'training.learningRate.peak=1e-4',
    'training.onNonFinite=skip',
    'training.steps=16',
    'checkpoints.every=100',
  ];
  const args = [...other, ...set.flatMap((assignment) => ['--set', assignment])];
  const { status, stdout, stderr } = await sdpo([...args, '--log-every', '1']);
  t.equal(status, 0, stderr);
  t.match(stderr, /^Goes on after step 8 of .*checkpoint-8\.$/m);
  t.match(stderr, /^ {2}training\.learningRate\.peak: 0\.0001, there 0\.001$/m, 'what differs is said');
  t.match(stderr, /^ {2}training\.onNonFinite: "skip", there "stop"$/m);
  t.match(stderr, /^step 9\/16 /m);
  t.match(stdout, /^Finished at step 16 of 16: 8 steps/m);
  const [first] = jsonLines(readFileSync(join(folder, 'other', 'metrics.jsonl'), 'utf8'));
  const ninth = jsonLines(readFileSync(join(folder, 'run', 'metrics.jsonl'), 'utf8'))[8];
  t.match(first, { step: 9, metrics: { loss: (ninth.metrics as { loss: number }).loss, learning_rate: 1e-4 } });

  // It has a state of its own from the start, and its config says where it comes from.
  rmSync(join(folder, 'run'), { recursive: true });
  t.match(await sdpo([...args, '--resume']), { status: 0, stdout: /^Finished at step 16 of 16: 0 steps/ });
  rmSync(join(folder, 'other', 'checkpoints', 'checkpoint-16'), { recursive: true });
  t.match(await sdpo([...args, '--resume']), { status: 0, stderr: /^Goes on after step 8\.$/m });
  const without = args.filter((arg) => arg !== '--from-checkpoint' && arg !== from);
  const forgotten = await sdpo([...without, '--resume']);
  t.match(forgotten, {
    status: 2,
    stderr: /^Expected fromCheckpoint to be ".*checkpoint-8", as in the run .* received undefined$/m,
  });
  const gone = await sdpo(['train', config, '--from-checkpoint', from, '--out', join(folder, 'third')]);
  t.match(gone, { status: 1, stderr: /^Expected .*checkpoint-8.progress\.json to be a file, received no such file/ });
});

t.test('fewer steps than were made are refused', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder);
  t.equal((await sdpo(['train', config, '--quiet'])).status, 0);
  const less = await sdpo(['train', config, '--resume', '--set', 'training.steps=7']);
  const stderr = /^Expected training\.steps to be at least 12, the updates that were made before, received 7$/m;
  t.match(less, { status: 2, stdout: '', stderr });
  t.ok(existsSync(join(folder, 'run', 'weights.safetensors')), 'and what is there stays');
});

t.test('a decay depends on the number of steps', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder, { training: { learningRate: { peak: 1e-3, decay: 'linear' } } });
  t.equal((await sdpo(['train', config, '--quiet'])).status, 0);
  const more = await sdpo(['train', config, '--resume', '--set', 'training.steps=20']);
  t.match(more, { status: 2, stderr: /^Expected training\.steps to be 12, as in the run .* received 20$/m });
});

t.test('--resume where there is nothing begins', async (t) => {
  const folder = t.testdir();
  t.equal((await sdpo(['train', writeConfig(folder), '--resume', '--quiet'])).status, 0);
  t.ok(existsSync(join(folder, 'run', 'weights.safetensors')));
});

t.test('a reference that moves, a β that adapts and timesteps in turn', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder, {
    training: { steps: 21, timesteps: { steps: [900, 600, 300, 150, 50], order: 'round-robin' } },
    reference: { kind: 'moving', every: 4, decay: 0.5 },
    beta: { target: 0.4, window: 48, warmup: 16, range: [1e-3, 1e3] },
    loss: { maskThreshold: 0 },
  });
  const run = (name: string, ...args: string[]) =>
    sdpo(['train', config, '--quiet', '--out', join(folder, name), ...args]);
  t.match(await run('whole'), { status: 0, stderr: '' });
  // Neither a multiple of the reference's updates nor of the list.
  t.match(await run('parts', '--set', 'training.steps=7'), { status: 0, stderr: '' });
  t.match(await run('parts', '--resume'), { status: 0, stderr: '' });
  for (const file of ['weights.safetensors', 'metrics.jsonl']) {
    const [first, second] = ['whole', 'parts'].map((name) => readFileSync(join(folder, name, file)));
    t.ok(first!.equals(second!), file);
  }
  const entries = jsonLines(readFileSync(join(folder, 'whole', 'metrics.jsonl'), 'utf8'));
  t.ok(new Set(entries.map(({ metrics }) => (metrics as { beta: number }).beta)).size > 5, 'β is logged');
  const other = await run('parts', '--resume', '--set', 'reference.every=5');
  t.match(other, { status: 2, stderr: /^Expected reference\.every to be 4, as in the run/m });
  const without = writeConfig(
    folder,
    { policy: { module: 'linear-policy.js', export: 'fixed' }, reference: { kind: 'moving', every: 1 } },
    'fixed.json',
  );
  t.match(await sdpo(['train', without, '--out', join(folder, 'none')]), {
    status: 2,
    stderr: /policy\.updateReference to be a function/,
  });
});

t.test('a threshold that is adjusted and a reference that is kept', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder, {
    training: { steps: 30 },
    threshold: { keep: 0.6, bins: 3, window: 32, warmup: 8 },
    reference: { kind: 'cache', folder: join(folder, 'cache') },
  });
  const run = (name: string, ...args: string[]) =>
    sdpo(['train', config, '--quiet', '--out', join(folder, name), ...args]);
  const same = (a: string, b: string) => {
    for (const file of ['weights.safetensors', 'metrics.jsonl']) {
      const [first, second] = [a, b].map((name) => readFileSync(join(folder, name, file)));
      t.ok(first.equals(second), `${file} of ${b} is that of ${a}`);
    }
  };
  t.match(await run('recorded'), { status: 0, stderr: '' });
  t.match(await run('replayed'), { status: 0, stderr: '' });
  same('recorded', 'replayed');
  t.match(await run('parts', '--set', 'training.steps=13'), { status: 0, stderr: '' });
  t.match(await run('parts', '--resume'), { status: 0, stderr: '' });
  same('recorded', 'parts');
  t.match(await run('without', '--set', 'reference={"kind":"policy"}'), { status: 0, stderr: '' });
  same('recorded', 'without');

  const kept = jsonLines(readFileSync(join(folder, 'recorded', 'metrics.jsonl'), 'utf8')).slice(15);
  const mean =
    kept.reduce((sum, { metrics }) => sum + (metrics as { maskFraction: number }).maskFraction, 0) / kept.length;
  await run(
    'fixed',
    '--set',
    'reference={"kind":"policy"}',
    '--set',
    'threshold.warmup=32',
    '--set',
    'loss.maskThreshold=1',
  );
  const [first] = jsonLines(readFileSync(join(folder, 'fixed', 'metrics.jsonl'), 'utf8'));
  t.match(first.metrics, { maskFraction: 1 }, 'the threshold of the loss holds until enough rows were seen');
  t.ok(mean > 0 && mean < 1, `${mean} of the rows were removed`);

  const other = await run('other', '--set', 'seed=1');
  t.match(other, { status: 1, stderr: /cache.*seed/s }, 'a cache of other rows is refused');
});

t.test('a cache is not replayed for other weights of the reference', async (t) => {
  const folder = t.testdir({
    'base.weights': 'first',
    version: '1',
    'policy.mjs': `
      import { readFileSync } from 'node:fs';
      import linear from ${JSON.stringify(new URL('../helpers/linear-policy.js', import.meta.url).href)};
      const version = new URL('./version', import.meta.url);
      export default (options, context) =>
        Object.assign(linear({}, context), { referenceFingerprint: readFileSync(version, 'utf8') });`,
  });
  const at = (name: string) => join(folder, name);
  const config = writeConfig(folder, {
    policy: { module: at('policy.mjs'), options: { model: { weights: at('base.weights') }, name: 'none.weights' } },
    reference: { kind: 'cache', folder: at('cache') },
  });
  let runs = 0;
  const run = () => sdpo(['train', config, '--quiet', '--out', at(`run-${runs++}`)]);
  t.match(await run(), { status: 0, stderr: '' });
  t.match(await run(), { status: 0, stderr: '' }, 'the same again');
  writeFileSync(at('base.weights'), 'other');
  t.match(await run(), { status: 1, stderr: /recorded with policyFiles \{"options\.model\.weights":"sha256/ });
  writeFileSync(at('base.weights'), 'first');
  writeFileSync(at('version'), '2');
  t.match(await run(), { status: 1, stderr: /recorded with reference "2", received "1"/ });
  writeFileSync(at('version'), '1');
  t.match(await run(), { status: 0, stderr: '' });
});

t.test('a reference of which the errors are kept', async (t) => {
  const folder = t.testdir();
  const reference = { kind: 'cache', folder: join(folder, 'cache'), content: 'errors' };
  const config = writeConfig(folder, { reference });
  for (const name of ['recorded', 'replayed']) {
    t.match(await sdpo(['train', config, '--quiet', '--out', join(folder, name)]), { status: 0, stderr: '' });
  }
  const driftOf = (name: string) => {
    const entries = jsonLines(readFileSync(join(folder, name, 'metrics.jsonl'), 'utf8'));
    return (entries.at(-1)!.metrics as { driftChosen: number | null }).driftChosen;
  };
  t.type(driftOf('recorded'), 'number');
  t.equal(driftOf('replayed'), null, 'there is no drift without the reference itself');
  const anchored = await sdpo(['train', config, '--set', 'loss.klWeight=1']);
  t.match(anchored, {
    status: 2,
    stderr: /Expected loss\.klWeight to be 0 with reference\.content 'errors', received 1/,
  });
});
