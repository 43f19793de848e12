/** What cannot be written or read is named: the step, the path and what helps, without a stack trace; and a full disk is not the end of a run. */

import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { sdpo, writeConfig } from '../helpers/cli-runs.js';

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const STACK = /^\s+at .*:\d+/m;

/** Runs shell commands in a mount namespace of their own, in which `sdpo` is the command line and `small` an empty file system of 2 MB. */
function onSmallDisk(folder: string, script: string) {
  const { status, stdout, stderr } = spawnSync(
    'unshare',
    [
      ...['--map-root-user', '--mount', 'sh', '-c'],
      `cd ${folder} && mkdir -p small && mount -t tmpfs -o size=2m tmpfs small && echo mounted || exit 9
       sdpo() { "${process.execPath}" --import tsx "${root}/lib/cli/cli.ts" "$@"; }
       ${script}`,
    ],
    {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, NODE_OPTIONS: '', TSX_TSCONFIG_PATH: join(root, 'tsconfig.json') },
    },
  );
  return { mounted: stdout?.startsWith('mounted') ?? false, status, stdout, stderr };
}

t.test('a full disk and one that is read-only', async (t) => {
  const folder = t.testdir();
  writeFileSync(
    join(folder, 'big.mjs'),
    `import make from ${JSON.stringify(new URL('../helpers/linear-policy.js', import.meta.url).href)};
     export default (options, context) => {
       const policy = make(options, context);
       const state = () => policy.state();
       const big = { dtype: 'uint8', shape: [300_000], data: new Uint8Array(300_000) };
       return {
         linearize: (x) => policy.linearize(x), predict: (x) => policy.predict(x), reference: (x) => policy.reference(x),
         step: (x) => policy.step(x), discard: () => policy.discard(), load: (x) => policy.load(x), weights: (x) => policy.weights(x),
         state: () => { const { tensors, scalars } = policy.state(); return { tensors: { ...tensors, big }, scalars }; },
       };
     };`,
  );
  const config = writeConfig(folder, {
    policy: { module: join(folder, 'big.mjs') },
    training: { steps: 40 },
    checkpoints: { every: 2, keep: 20 },
    out: join(folder, 'small', 'run'),
  });
  const { mounted, stdout, stderr } = onSmallDisk(
    folder,
    `sdpo train ${config} --quiet; echo "full $?"; ls small/run/checkpoints; test -e small/run/run.lock || echo unlocked
     dd if=/dev/zero of=small/rest bs=1k 2>/dev/null
     sdpo train ${config} --quiet --resume --set checkpoints.keep=2; echo "smaller $?"; ls -A small/run/checkpoints
     mount -o remount,ro small; sdpo train ${config} --quiet --out small/other; echo "read-only $?"`,
  );
  if (!mounted) {
    t.pass('not run', { skip: 'file systems cannot be mounted here' });
    return;
  }
  const [full, smaller, readOnly] = stdout.split(/^(?:full|smaller|read-only) /m).slice(1);
  t.match(full, /^1\n(checkpoint-\d+\n)+unlocked\n$/, 'what was there stays, and nothing half');
  t.match(smaller, /^0\ncheckpoint-38\ncheckpoint-40\n$/, 'a smaller keep makes room, also where nothing else fits');
  t.match(readOnly, /^1\n$/);
  const errors = stderr.split('\n').filter((line) => !line.startsWith('Warning: '));
  t.match(errors, [
    /^Expected to write the checkpoint of step \d+ \(.*small.run.checkpoints.checkpoint-\d+\), received ENOSPC: no space left on device; .*make room.*a smaller keep than 20/,
    /^Expected to lock the folder \(.*small.other.run\.lock\), received EROFS: read-only file system; .*another folder$/,
    '',
  ]);
});

t.test('folders and damaged files in the place of those of a run', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder);
  const run = join(folder, 'run');
  t.equal((await sdpo(['train', config, '--quiet'])).status, 0);
  const cases: [string, string | undefined, number, RegExp][] = [
    [
      'metrics.jsonl',
      undefined,
      1,
      /^Expected to append the entry of step 13 to the log \(.*metrics\.jsonl\), received EISDIR/,
    ],
    [
      'weights.safetensors',
      undefined,
      1,
      /^Expected to remove what an earlier end of the run left \(.*weights\.safetensors\)/,
    ],
    [
      'environment.json',
      undefined,
      1,
      /^Expected .*environment\.json to be JSON with a list of sessions, received something/,
    ],
    [
      'environment.json',
      '{"sess',
      1,
      /^Expected .*environment\.json to be JSON with a list of sessions, .*move it away$/m,
    ],
    ['environment.json', '{"sessions":5}', 1, /^Expected .*environment\.json to be JSON with a list of sessions/],
    ['config.json', '{"policy"', 2, /^Expected .*config\.json to be readable JSON/],
    ['config.json', undefined, 2, /^Expected .*config\.json to be/],
    ['config.json', '{"base":5,"loss":null,"training":4}', 2, /^Expected \w+ to be .*, as in the run that --resume/],
    ['checkpoints', 'x', 2, /^Expected .*checkpoints to be a folder/],
  ];
  const before = new Map(
    readdirSync(run).map((name) => [name, name === 'checkpoints' ? undefined : readFileSync(join(run, name))]),
  );
  for (const [name, content, code, message] of cases) {
    rmSync(join(run, name), { recursive: true, force: true });
    if (content === undefined) mkdirSync(join(run, name));
    else writeFileSync(join(run, name), content);
    const { status, stderr } = await sdpo(['train', config, '--quiet', '--resume', '--set', 'training.steps=14']);
    t.equal(status, code, `${name}: ${stderr}`);
    t.match(stderr, message);
    t.notMatch(stderr, STACK);
    rmSync(join(run, name), { recursive: true, force: true });
    const content0 = before.get(name);
    if (content0 !== undefined) writeFileSync(join(run, name), content0);
  }
});
