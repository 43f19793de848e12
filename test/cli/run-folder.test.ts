/** The folder of a run: one process at a time, a wrong start that can be mended, and nothing of an earlier end beside a later one. */

import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { built, sdpo, start, writeConfig } from '../helpers/cli-runs.js';

t.test('a second process is kept out while the first runs', async (t) => {
  const folder = t.testdir();
  const policy = { module: 'linear-policy.js', options: { delay: 10 } };
  const config = writeConfig(folder, { training: { steps: 1000 }, policy });
  const run = start(['train', config, '--log-every', '1']);
  await run.printed('step 6/1000');
  const second = await sdpo(['train', config, '--resume']);
  t.match(second, {
    status: 2,
    stderr: /^Expected no other process to run in .*run, received process \d+ .*run\.lock\)$/m,
  });
  run.process.kill('SIGKILL');
  await run.ended;
  t.ok(existsSync(join(folder, 'run', 'run.lock')), 'a process that is killed leaves its lock');
  const made = Math.max(
    ...readdirSync(join(folder, 'run', 'checkpoints')).map((name) => Number(/^checkpoint-(\d+)$/.exec(name)?.[1] ?? 0)),
  );
  const next = await sdpo(['train', config, '--resume', '--quiet', '--set', `training.steps=${made + 2}`]);
  t.equal(next.status, 0, next.stderr);
  t.notOk(existsSync(join(folder, 'run', 'run.lock')), 'which the next one takes over');
});

t.test('a run without a checkpoint begins anew with another config', async (t) => {
  const folder = t.testdir();
  const wrong = writeConfig(folder, { training: { timesteps: { range: [0, 5000] } } });
  const refused = await sdpo(['train', wrong]);
  t.match(refused, { status: 2, stderr: /^Expected training\.timesteps\.range/m });
  t.notOk(existsSync(join(folder, 'run', 'config.json')), 'what does not fit leaves no run');
  // A policy that fails in its first update has been recorded.
  writeFileSync(
    join(folder, 'broken.mjs'),
    `import make from ${JSON.stringify(new URL('../helpers/linear-policy.js', import.meta.url).href)};
     export default (options, context) => Object.assign(make(options, context), { linearize: () => undefined });`,
  );
  const config = writeConfig(folder);
  const broken = await sdpo(['train', config, '--set', `policy.module=${join(folder, 'broken.mjs')}`]);
  t.match(broken, { status: 1, stderr: /^Expected the result of policy\.linearize\(\)/m });
  t.ok(existsSync(join(folder, 'run', 'config.json')));
  t.match(await sdpo(['train', config, '--resume', '--quiet']), { status: 0, stderr: '' });
});

t.test('weights of an earlier end do not stay beside a divergence', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder);
  t.equal((await sdpo(['train', config, '--quiet'])).status, 0);
  t.ok(existsSync(join(folder, 'run', 'weights.safetensors')));
  writeFileSync(join(folder, 'nan.mjs'), `export default () => () => { throw new Error('typo'); };`);
  const evaluation = ['--set', `evaluation.module=${join(folder, 'nan.mjs')}`, '--set', 'evaluation.every=1'];
  const failed = await sdpo(['train', config, '--resume', '--set', 'training.steps=20', ...evaluation]);
  t.match(failed, { status: 1, stderr: /typo/ });
  t.notOk(existsSync(join(folder, 'run', 'weights.safetensors')));
  t.ok(
    readdirSync(join(folder, 'run', 'checkpoints')).includes('checkpoint-13'),
    'the update before the failure is kept',
  );
});

t.test('modules that cannot be imported, and promises that never settle', async (t) => {
  const folder = t.testdir();
  writeFileSync(join(folder, 'syntax.mjs'), 'export default (');
  writeFileSync(join(folder, 'never.mjs'), 'export default () => new Promise(() => {});');
  mkdirSync(join(folder, 'folder'));
  const config = writeConfig(folder);
  const run = (name: string) => sdpo(['train', config, '--set', `policy.module=${join(folder, name)}`]);
  for (const name of ['syntax.mjs', 'folder']) {
    t.match(
      await run(name),
      { status: 2, stderr: new RegExp(`^Expected policy\\.module to be a module\\b.*${name}`) },
      name,
    );
  }
  const never = { status: 1, stderr: /^Expected the command to end, received a promise that never settles/ };
  t.match(await run('never.mjs'), never);
  t.match(await built(['train', config, '--set', `policy.module=${join(folder, 'never.mjs')}`]), never, 'as installed');
});

t.test('what the weights of a policy are is looked at before the first update', async (t) => {
  const folder = t.testdir();
  const helper = JSON.stringify(new URL('../helpers/linear-policy.js', import.meta.url).href);
  const cases: [string, RegExp][] = [
    ['undefined', /^Expected the result of policy\.weights\(\) to be an object of named tensors, received undefined$/m],
    ['({ w: [1, 2] })', /^Expected the result of policy\.weights\(\)\["w"\]\.dtype to be one of/m],
  ];
  for (const [weights, message] of cases) {
    writeFileSync(
      join(folder, 'policy.mjs'),
      `import make from ${helper};
       export default (options, context) => Object.assign(make(options, context), { weights: () => ${weights}, step() { throw new Error('an update'); } });`,
    );
    const ended = await sdpo(['train', writeConfig(folder, { policy: { module: join(folder, 'policy.mjs') } })]);
    t.match(ended, { status: 2, stderr: message });
    t.notOk(existsSync(join(folder, 'run', 'config.json')));
  }
  writeFileSync(join(folder, 'none.mjs'), 'export default () => null;');
  for (const command of ['train', 'calibrate']) {
    const ended = await sdpo([command, writeConfig(folder, { policy: { module: join(folder, 'none.mjs') } })]);
    t.match(ended, { status: 2, stderr: /^Expected policy\.module to give a policy, received null$/m }, command);
  }
});

t.test('a run that came and went while the model was loaded is not overwritten', async (t) => {
  const folder = t.testdir();
  const helper = JSON.stringify(new URL('../helpers/linear-policy.js', import.meta.url).href);
  writeFileSync(
    join(folder, 'slow.mjs'),
    `import { existsSync } from 'node:fs';
     import { setTimeout as sleep } from 'node:timers/promises';
     import make from ${helper};
     export default async (options, context) => {
       process.stderr.write('loading\\n');
       while (!existsSync(${JSON.stringify(join(folder, 'run', 'summary.json'))})) await sleep(20);
       return make(options, context);
     };`,
  );
  const config = writeConfig(folder);
  const slow = start(['train', config, '--set', `policy.module=${join(folder, 'slow.mjs')}`, '--set', 'seed=5']);
  await slow.printed('loading');
  t.equal((await sdpo(['train', config, '--quiet'])).status, 0);
  t.match(await slow.ended, { status: 2, stderr: /^Expected .*run to be empty or new, received a folder with/m });
  t.match(readFileSync(join(folder, 'run', 'config.json'), 'utf8'), '"seed": 0');
  t.ok(existsSync(join(folder, 'run', 'weights.safetensors')));
});
