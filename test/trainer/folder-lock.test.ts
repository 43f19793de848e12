/** The lock of a folder: it ends with its process however that ends, what a file says stops nobody, and no two get in at the same time. */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { lockFolder } from '../../lib/trainer/folder-lock.js';
import { jsonOf } from '../helpers/child.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const source = JSON.stringify(new URL('../../lib/trainer/folder-lock.ts', import.meta.url).href);

/** A process that takes folders on command and answers each with a line. */
class Other {
  readonly process: ChildProcess;
  readonly #lines: AsyncIterator<string>;

  constructor(t: Test, around: readonly string[] = []) {
    const program = `
      import { createInterface } from 'node:readline';
      const { lockFolder } = await import(${source});
      const held = new Map();
      for await (const line of createInterface({ input: process.stdin })) {
        const { take, leave } = JSON.parse(line);
        if (leave !== undefined) { held.get(leave)?.release(); console.log('left'); continue; }
        try { held.set(take, lockFolder(take)); console.log('inside'); } catch (error) { console.log(error.code + ' ' + error.message); }
      }`;
    const [command, ...args] = [...around, process.execPath];
    this.process = spawn(command, [...args, '--import', 'tsx', '--input-type=module', '-e', program], {
      cwd: root,
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#lines = createInterface({ input: this.process.stdout! })[Symbol.asyncIterator]();
    t.teardown(() => this.process.kill('SIGKILL'));
  }

  async ask(what: { take: string } | { leave: string }): Promise<string> {
    this.process.stdin!.write(`${JSON.stringify(what)}\n`);
    return (await this.#lines.next()).value;
  }

  async kill(): Promise<void> {
    const gone = once(this.process, 'close');
    this.process.kill('SIGKILL');
    await gone;
  }
}

t.test('one at a time, also within a process', async (t) => {
  const folder = join(t.testdir(), 'not', 'there', 'yet');
  const lock = lockFolder(folder);
  t.equal(lock.file, join(folder, 'run.lock'));
  t.match(JSON.parse(readFileSync(lock.file, 'utf8')), { pid: process.pid, host: hostname(), since: /^\d{4}-/ });
  const message = new RegExp(
    `^Expected no other process to run in .*yet, received process ${process.pid} of ${hostname()}, there since .* \\(.*run\\.lock\\)$`,
  );
  t.throws(() => lockFolder(folder), { code: 'ERR_SDPO_LOCKED', message });
  lockFolder(folder, { name: 'other.lock' }).release();
  lock.release();
  t.notOk(existsSync(lock.file), 'nothing is left');
  const next = lockFolder(folder);
  lock.release();
  t.ok(existsSync(next.file), 'who has left has no say any more');
  t.throws(() => lockFolder(folder), { code: 'ERR_SDPO_LOCKED' });
  next.release();
});

t.test('what a file says stops nobody', async (t) => {
  const folder = t.testdir();
  const numbers = [process.pid, process.ppid, 1, 999_999];
  const json = numbers.map((pid) => JSON.stringify({ pid, host: hostname(), since: new Date().toISOString() }));
  for (const text of ['', 'null', '{"pid"', '\0'.repeat(4096), ...numbers.map((pid) => `${pid}\n`), ...json]) {
    writeFileSync(join(folder, 'run.lock'), text);
    lockFolder(folder).release();
    t.notOk(existsSync(join(folder, 'run.lock')), JSON.stringify(text.slice(0, 60)));
  }
  // Nor does it have to be readable while somebody has the lock.
  const lock = lockFolder(folder);
  writeFileSync(lock.file, 'half a nam');
  t.throws(() => lockFolder(folder), { code: 'ERR_SDPO_LOCKED', message: /received one that has it locked/ });
  lock.release();
});

t.test('a process that is killed leaves nothing that counts', async (t) => {
  const folder = t.testdir();
  const other = new Other(t);
  t.equal(await other.ask({ take: folder }), 'inside');
  t.throws(() => lockFolder(folder), { code: 'ERR_SDPO_LOCKED', message: `process ${other.process.pid} of` });
  await other.kill();
  t.match(readFileSync(join(folder, 'run.lock'), 'utf8'), String(other.process.pid));
  lockFolder(folder).release();
});

t.test('a process of another container that shares the folder counts', async (t) => {
  const unshare = ['unshare', '--pid', '--fork', '--kill-child'];
  if (spawnSync(unshare[0], [...unshare.slice(1), 'true']).status !== 0) {
    t.pass('not run', { skip: 'process namespaces cannot be made here' });
    return;
  }
  const folder = t.testdir();
  const other = new Other(t, unshare);
  t.equal(await other.ask({ take: folder }), 'inside');
  t.equal(JSON.parse(readFileSync(join(folder, 'run.lock'), 'utf8')).pid, 1, 'it is the first process there');
  t.throws(() => lockFolder(folder), { code: 'ERR_SDPO_LOCKED' });
  await other.kill();
  // The kernel ends the namespace a moment after unshare itself.
  for (;;) {
    try {
      lockFolder(folder).release();
      break;
    } catch (error) {
      if ((error as { code?: string }).code !== 'ERR_SDPO_LOCKED') throw error;
      await new Promise((resolve) => setImmediate(resolve));
    }
  }
  t.equal(await new Other(t, unshare).ask({ take: folder }), 'inside', 'a first process again');
});

t.test('of several that find a stale lock one gets in', async (t) => {
  const folder = t.testdir();
  const others = [0, 1, 2, 3].map(() => new Other(t));
  const inside: number[] = [];
  for (let round = 0; round < 60; round++) {
    const place = join(folder, String(round));
    mkdirSync(place);
    writeFileSync(join(place, 'run.lock'), '999999\n');
    const answers = await Promise.all(others.map((other) => other.ask({ take: place })));
    inside.push(answers.filter((answer) => answer === 'inside').length);
    t.ok(
      answers.every((answer) => answer === 'inside' || answer.startsWith('ERR_SDPO_LOCKED')),
      answers.join('; '),
    );
  }
  t.same(
    inside.filter((count) => count !== 1),
    [],
  );
});

t.test('nobody comes in while another leaves', async (t) => {
  const folder = t.testdir();
  const program = `
    import { closeSync, openSync, unlinkSync } from 'node:fs';
    const { lockFolder } = await import(${source});
    const [folder, mark] = ${JSON.stringify([folder, join(folder, 'inside')])};
    let times = 0;
    for (let n = 0; n < 3000; n++) {
      let lock;
      try { lock = lockFolder(folder); } catch (error) { if (error.code !== 'ERR_SDPO_LOCKED') throw error; continue; }
      closeSync(openSync(mark, 'wx')); // fails where somebody else is inside
      times++;
      unlinkSync(mark);
      lock.release();
    }
    console.log(times);`;
  const run = () =>
    new Promise<[number | null, string]>((resolve) => {
      const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', program], { cwd: root });
      let text = '';
      for (const stream of [child.stdout, child.stderr]) stream.on('data', (part) => (text += part));
      child.on('close', (status) => resolve([status, text.trim()]));
    });
  for (const [status, text] of await Promise.all([run(), run(), run()])) {
    t.equal(status, 0, text);
    t.ok(Number(text) > 0, `${text} times inside`);
  }
});

t.test('a file system without locks lets in and says so', async (t) => {
  const calls = createRequire(import.meta.url)('fs-native-extensions') as { tryLock: unknown };
  const { tryLock } = calls;
  t.teardown(() => {
    calls.tryLock = tryLock;
  });
  const answer = (code: string) => {
    calls.tryLock = () => {
      throw Object.assign(new Error('no'), { code });
    };
  };
  const folder = t.testdir();
  for (const [code, name] of [
    ['ENOSYS', 'ENOSYS'],
    ['ENOTSUP', 'ENOTSUP'],
    ['EINVAL', 'EINVAL'],
    ['Unknown system error -37', 'ENOLCK'],
  ]) {
    answer(code);
    const warnings: string[] = [];
    lockFolder(folder, { onWarning: (message) => warnings.push(message) }).release();
    t.equal(warnings.length, 1);
    t.match(
      warnings[0],
      new RegExp(`run\\.lock to be locked, received ${name}, .*nothing keeps a second process out$`),
    );
  }
  answer('EACCES');
  t.throws(() => lockFolder(folder), { code: 'ERR_SDPO_LOCKED' });
  answer('EIO');
  t.throws(() => lockFolder(folder), { code: 'ERR_SDPO_FILE', message: /run\.lock to be locked, received EIO/ });
});

t.test('so does an addon that is not there', async (t) => {
  const folder = JSON.stringify(t.testdir());
  const warnings = jsonOf<string[]>(`
    import Module from 'node:module';
    const load = Module._load;
    Module._load = (name, ...rest) => { if (name === 'fs-native-extensions') throw new Error('Cannot find addon'); return load(name, ...rest); };
    const { lockFolder } = await import(${source});
    const warnings = [];
    lockFolder(${folder}, { onWarning: (message) => warnings.push(message) });
    console.log(JSON.stringify(warnings));`);
  t.match(warnings, [/run\.lock to be locked, received no addon for it \(fs-native-extensions: Cannot find addon\)/]);
});

t.test('what is no file or has no place', async (t) => {
  const folder = t.testdir({ file: 'x', taken: { 'run.lock': {} }, pipe: {} });
  spawnSync('mkfifo', [join(folder, 'pipe', 'run.lock')]);
  const cases: [string, RegExp][] = [
    [join(folder, 'file'), /^Expected to lock the folder \(.*file.run\.lock\), received (EEXIST|ENOTDIR): /],
    [join(folder, 'file', 'below'), /^Expected to lock the folder .* received ENOTDIR: .*a file is where a folder/],
    [join(folder, 'taken'), /^Expected to lock the folder .* received EISDIR: .*a folder has the name of the file/],
    [join(folder, 'pipe'), /^Expected .*run\.lock to be a file, received something else$/],
  ];
  for (const [path, message] of cases) t.throws(() => lockFolder(path), { code: 'ERR_SDPO_FILE', message }, path);
  t.throws(() => lockFolder(1 as never), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
  t.throws(() => lockFolder(folder, { file: 'x' } as never), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
});
