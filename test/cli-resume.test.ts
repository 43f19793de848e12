/** `sdpo train --resume`: a run that is killed at any moment becomes the run that was never killed, and a changed config is refused. */

import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { jsonLines, sdpo, start, writeConfig } from './cli-runs.js';

const FILES = ['weights.safetensors', 'weights-average.safetensors', 'metrics.jsonl'];
const KILLS = 6;

t.test('kill -9 at random moments', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder, {
    policy: { module: 'linear-policy.js', options: { delay: 3 } },
    training: {
      ...{ steps: 150, timestepsPerPair: 2, accumulate: 2, ema: { decay: 0.99 }, logBinsEvery: 7 },
      learningRate: { peak: 3e-3, warmupSteps: 10, decay: 'cosine', final: 1e-4 },
    },
    evaluation: { module: 'linear-evaluation.js', every: 4 },
    checkpoints: { every: 3, keep: 2 },
  });
  const whole = join(folder, 'whole');
  t.match(await sdpo(['train', config, '--out', whole, '--quiet']), { status: 0, stderr: '' });

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
    ['base=/', /^Expected base to be .*test", .* received "\/"$/m],
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
