/** Output that nobody reads any more: what is under way stops in order, and no command ends with a stack trace. */

import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, constants, existsSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { start, writeConfig } from '../helpers/cli-runs.js';

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const STACK = /^\s+at .*:\d+/m;

/** A training that takes minutes, were it not stopped. */
const endless = { training: { steps: 20_000 }, policy: { module: 'linear-policy.js', options: { delay: 5 } } };

for (const gone of ['stdout', 'stderr'] as const) {
  t.test(`a reader of ${gone} that goes away stops a training as SIGTERM does`, async (t) => {
    const folder = t.testdir();
    const config = writeConfig(folder, endless);
    const run = start(['train', config, '--log-every', '1', ...(gone === 'stdout' ? ['--json'] : [])]);
    await run.printed(gone === 'stdout' ? '"step":3,' : 'step 3/20000');
    run.process[gone]!.destroy();
    const { status, stdout, stderr } = await run.ended;
    t.equal(status, 130, stderr);
    t.notMatch(stderr + stdout, STACK);
    if (gone === 'stderr') t.match(stdout, /^Interrupted at step \d+ of 20000/m, 'the other stream is still written');
    const summary = JSON.parse(readFileSync(join(folder, 'run', 'summary.json'), 'utf8'));
    t.equal(summary.status, 'interrupted');
    t.ok(readdirSync(join(folder, 'run', 'checkpoints')).includes(`checkpoint-${summary.step}`));
    t.notOk(existsSync(join(folder, 'run', 'run.lock')));
  });
}

/** Runs a command whose standard output or error, or both, is a pipe without a reader from the start. */
async function unread(pipe: string, args: readonly string[], streams: readonly (1 | 2)[]) {
  const reader = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK);
  const writer = openSync(pipe, constants.O_WRONLY);
  closeSync(reader);
  return ended(args, [1, 2].map((fd) => (streams.includes(fd as 1 | 2) ? writer : 'pipe')) as ('pipe' | number)[]);
}

async function ended(args: readonly string[], [out, err]: readonly ('pipe' | number)[]) {
  const child = spawn(process.execPath, ['--import', 'tsx', join(root, 'lib/cli/cli.ts'), ...args], {
    cwd: root,
    stdio: ['ignore', out, err],
  });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream?.setEncoding('utf8').on('data', (part) => (text += part));
  const [status, signal] = await once(child, 'close');
  for (const fd of new Set([out, err])) if (typeof fd === 'number') closeSync(fd);
  return { status, signal, text };
}

t.test('commands whose output nobody reads', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder);
  const pipe = join(folder, 'pipe');
  spawnSync('mkfifo', [pipe]);
  const commands: [string[], number][] = [
    [['doctor'], 0],
    [['selftest', '--json'], 0],
    [['calibrate', config], 0],
    [['--help'], 0],
    [['train', config], 0],
    [['train', config], 2], // the folder is not empty now
    [['doctor', '--such'], 2],
  ];
  for (const [args, code] of commands) {
    // What is printed last is no reason to fail; a training whose steps nobody can see stops.
    const streams: (1 | 2)[] = code === 0 ? [1] : [1, 2];
    const { status, text } = await unread(pipe, args, streams);
    t.equal(status, code, `${args.join(' ')}: ${text}`);
    t.notMatch(text, STACK);
  }
});

t.test('a disk that is full is a failure', async (t) => {
  if (!existsSync('/dev/full')) {
    t.pass('not run', { skip: '/dev/full is not there' });
    return;
  }
  for (const args of [['doctor'], ['train', '--help']]) {
    const { status, text } = await ended(args, [openSync('/dev/full', 'w'), 'pipe']);
    t.equal(status, 1, args.join(' '));
    t.match(text, /^Expected standard output to take what is printed, received ENOSPC: no space left on device/);
  }
  const config = writeConfig(t.testdir(), endless);
  const { status, text } = await ended(['train', config, '--json'], [openSync('/dev/full', 'w'), 'pipe']);
  t.equal(status, 1, text);
  t.notMatch(text, STACK);
});
