/** What may stand in place of a file, everywhere a path is taken: an error that says what it is, and no waiting. */

import { spawnSync } from 'node:child_process';
import { chmodSync, mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { join } from 'node:path';
import t from 'tap';
import { loadConfig } from '../../lib/cli/config.js';
import { callModule } from '../../lib/cli/modules.js';
import { makeSchedule } from '../../lib/cli/train-setup.js';
import { insteadOfFile, isMissing, listFolder, openFile, openFileSync } from '../../lib/files/open.js';
import { readTextFile } from '../../lib/files/text.js';
import { CheckpointStore } from '../../lib/trainer/checkpoint.js';
import { pairsFromParquet, pairsFromSafetensors } from '../../lib/trainer/data.js';
import { readStudy } from '../../study/lib/plan.js';
import { readResults } from '../../study/lib/results-file.js';
import { writeConfig } from '../helpers/cli-runs.js';

const folder = t.testdir({ folder: {}, file: 'text' });
const at = (name: string) => join(folder, name);
spawnSync('mkfifo', [at('fifo')]);
symlinkSync('loop', at('loop'));
symlinkSync('fifo', at('link-to-fifo'));

/** Paths, and what is said of them. */
const INSTEAD: [path: string, received: RegExp][] = [
  [at('fifo'), /received a FIFO/],
  [at('link-to-fifo'), /received a FIFO/],
  [at('folder'), /received a folder/],
  ['/dev/zero', /received a device/],
  ['/dev/null', /received a device/],
  [at('none'), /received no such file: ENOENT/],
  [join(at('file'), 'below'), /received a path with something in it that is no folder: ENOTDIR/],
  [at('loop'), /received links that lead back to themselves: ELOOP/],
  [`${at('file')}\0`, /received .*null bytes/],
];

t.test('every reader says what is there', async (t) => {
  const store = (path: string) => new CheckpointStore(path);
  const readers: [name: string, code: string, read: (path: string) => unknown][] = [
    ['openFile', 'ERR_SDPO_DATA', (path) => openFile(path, 'ERR_SDPO_DATA')],
    ['openFileSync', 'ERR_SDPO_DATA', (path) => openFileSync(path, 'ERR_SDPO_DATA')],
    ['readTextFile', 'ERR_SDPO_CONFIG', (path) => readTextFile(path, 'ERR_SDPO_CONFIG')],
    ['safetensors', 'ERR_SDPO_DATA', (path) => pairsFromSafetensors(path)],
    ['Parquet', 'ERR_SDPO_DATA', (path) => pairsFromParquet(path, { shape: [1] })],
    ['a config', 'ERR_SDPO_CONFIG', (path) => loadConfig(path)],
    ['a module', 'ERR_SDPO_CONFIG', (path) => callModule('policy', { module: path }, '/', {})],
    [
      'a config of a schedule',
      'ERR_SDPO_CONFIG',
      (path) => makeSchedule(loadConfig(writeConfig(folder, { schedule: { config: path } }))),
    ],
    ['the declaration of a study', 'ERR_SDPO_INVALID_ARG_VALUE', readStudy],
    ['the results of a study', 'ERR_SDPO_CONFIG', readResults],
  ];
  for (const [name, code, read] of readers) {
    for (const [path, message] of INSTEAD) {
      await t.rejects(async () => read(path), { code, message }, `${name}: ${message}`);
    }
  }
  for (const path of [at('file'), at('fifo'), '/dev/zero']) {
    await t.rejects(store(path).latest(), {
      code: 'ERR_SDPO_CHECKPOINT',
      message: /to be a folder, received .*: ENOTDIR/,
    });
  }
});

t.test('a socket', async (t) => {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(at('socket'), resolve));
  t.teardown(() => server.close());
  await t.rejects(openFile(at('socket'), 'ERR_SDPO_DATA'), { message: /received a socket or a device: ENXIO/ });
  t.equal(insteadOfFile(at('socket')), 'a socket');
});

t.test('what may not be read', { skip: process.getuid?.() === 0 && 'root may read everything' }, async (t) => {
  mkdirSync(at('closed'));
  chmodSync(at('closed'), 0);
  t.teardown(() => chmodSync(at('closed'), 0o700));
  const message = /may not be read \(permissions\): EACCES/;
  await t.rejects(openFile(join(at('closed'), 'x'), 'ERR_SDPO_DATA'), { message });
  await t.rejects(listFolder(at('closed'), 'ERR_SDPO_DATA'), { message });
});

t.test('a regular file, and a link to one', async (t) => {
  symlinkSync('file', at('link'));
  for (const name of ['file', 'link']) {
    t.equal(insteadOfFile(at(name)), undefined);
    t.equal(readTextFile(at(name), 'ERR_SDPO_DATA'), 'text');
    const file = await openFile(at(name), 'ERR_SDPO_DATA');
    t.equal(String(await file.readFile()), 'text');
    await file.close();
  }
  const missing = await openFile(at('none'), 'ERR_SDPO_DATA').catch((error: unknown) => error);
  t.ok(isMissing(missing));
  t.notOk(isMissing(await openFile(at('folder'), 'ERR_SDPO_DATA').catch((error: unknown) => error)));
  t.notOk(isMissing(new Error('ENOENT')));
  t.same(await listFolder(at('none'), 'ERR_SDPO_DATA'), []);
});

t.test('text', async (t) => {
  const read = (content: string | Buffer) => {
    writeFileSync(at('text'), content);
    return readTextFile(at('text'), 'ERR_SDPO_CONFIG');
  };
  t.equal(read('\ufeff{"größe": 1}\r\n'), '{"größe": 1}\r\n', 'without its byte order mark');
  t.equal(read(''), '');
  t.throws(() => read(Buffer.of(0x61, 0xff)), {
    code: 'ERR_SDPO_CONFIG',
    message: /text in UTF-8, received bytes that/,
  });
  for (const mark of [
    [0xff, 0xfe],
    [0xfe, 0xff],
  ]) {
    t.throws(() => read(Buffer.of(...mark, 0x7b, 0)), { message: /received UTF-16, as PowerShell writes it/ });
  }
  // Sparse: it takes no room, and would take all memory.
  spawnSync('truncate', ['-s', '1T', at('sparse')]);
  t.throws(() => readTextFile(at('sparse'), 'ERR_SDPO_CONFIG'), {
    message: /at most 256 MiB, received 1099511627776 bytes/,
  });
  t.equal(readTextFile('/proc/self/comm', 'ERR_SDPO_DATA').trim().length > 0, true, 'a file whose size is not known');
});
