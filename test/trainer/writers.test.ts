/** Metrics writers: lines as documented, resumed files equal to uninterrupted ones, torn lines, and console output. */

import { spawnSync } from 'node:child_process';
import { appendFileSync, existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { PassThrough } from 'node:stream';
import t from 'tap';
import type { MetricsWriter } from '../../lib/trainer/types.js';
import { consoleWriter, jsonlWriter } from '../../lib/trainer/writers.js';

type Entry = Parameters<MetricsWriter['write']>[0];
const train = (step: number, more = {}): Entry => ({ step, kind: 'train', metrics: { loss: 1 / step, ...more } });

/** The entries of a run from one step to another: an update each, and an evaluation after every third. */
async function run(writer: MetricsWriter, first: number, last: number): Promise<void> {
  for (let step = first; step <= last; step++) {
    await writer.write(train(step, { 'größe/β': step }));
    if (step % 3 === 0) await writer.write({ step, kind: 'evaluation', metrics: { accuracy: step } });
  }
  await writer.close?.();
}

t.test('JSON Lines: one line per entry, appended', async (t) => {
  const path = join(t.testdir(), 'new', 'log.jsonl');
  const writer = jsonlWriter(path);
  t.notOk(existsSync(path), 'nothing happens before the first entry');
  // Not awaited: they still come in order, and as they were.
  const metrics = { loss: 1, high: Infinity, low: -Infinity, none: NaN };
  const first = writer.write({ step: 1, kind: 'train', metrics });
  metrics.loss = 2;
  await Promise.all([first, writer.write({ step: 2, kind: 'evaluation', metrics })]);
  t.equal(
    readFileSync(path, 'utf8'),
    '{"step":1,"kind":"train","metrics":{"loss":1,"high":null,"low":null,"none":null}}\n' +
      '{"step":2,"kind":"evaluation","metrics":{"loss":2,"high":null,"low":null,"none":null}}\n',
    'on the disk before close',
  );
  await writer.close?.();
  await writer.close?.();
  t.throws(() => writer.write(train(3)), { code: 'ERR_SDPO_DISPOSED', message: /log\.jsonl/ });
  await run(jsonlWriter(path), 3, 3);
  t.equal(readFileSync(path, 'utf8').split('\n').length, 5, 'a second writer appends');
});

t.test('JSON Lines: a resumed run leaves the file of one that never stopped', async (t) => {
  const folder = t.testdir();
  const whole = join(folder, 'whole');
  await run(jsonlWriter(whole), 1, 12);
  const expected = readFileSync(whole);
  for (const from of [0, 1, 3, 6, 11, 12]) {
    for (const stopped of [from, from + 1, 12, 15]) {
      for (const torn of ['', '{"step":', '{"step":99,"kind":"train","metrics":{}}']) {
        const path = join(folder, 'resumed');
        writeFileSync(path, '');
        await run(jsonlWriter(path), 1, stopped);
        appendFileSync(path, torn);
        await run(jsonlWriter(path, { from }), from + 1, 12);
        t.same(readFileSync(path), expected, `from ${from}, stopped at ${stopped}, ${torn || 'nothing torn'}`);
      }
    }
  }
  const path = join(folder, 'resumed');
  await jsonlWriter(path, { from: 4 }).close?.();
  t.equal(readFileSync(path, 'utf8').trimEnd().split('\n').length, 5, 'cut off also where nothing is written');
  await run(jsonlWriter(join(folder, 'fresh'), { from: 0 }), 1, 12);
  t.same(readFileSync(join(folder, 'fresh')), expected, 'where there was no file');
});

t.test('JSON Lines: a torn last line goes, anything else that is no entry is an error', async (t) => {
  const path = join(t.testdir(), 'log');
  writeFileSync(path, '{"step":1,"kind":"train","metrics":{}}\n{"step":2');
  await run(jsonlWriter(path), 4, 4);
  t.match(readFileSync(path, 'utf8'), /^\{"step":1.*\n\{"step":4.*\n$/);
  for (const line of ['hello', '{}', 'null', '']) {
    writeFileSync(path, `{"step":1}\n${line}\n{"step":2}\n`);
    const writer = jsonlWriter(path, { from: 5 });
    const failed = { code: 'ERR_SDPO_DATA', message: /line 2 of .*log to be a JSON object with a step/ };
    await t.rejects(writer.write(train(6)) as Promise<void>, failed, line);
    await t.rejects(writer.close?.() as Promise<void>, failed);
  }
  t.throws(() => jsonlWriter(path, { from: -1 }), /options.from/);
  t.throws(() => jsonlWriter(path, { form: 1 } as never), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
  t.throws(() => jsonlWriter(1 as never), TypeError);
});

t.test('JSON Lines: what stays is what was there, byte by byte', async (t) => {
  const path = join(t.testdir(), 'log');
  const line = (step: number, name = 'loss') => JSON.stringify({ step, kind: 'train', metrics: { [name]: 1 } });
  const resumed = async (before: string | Buffer, from: number) => {
    writeFileSync(path, before);
    await run(jsonlWriter(path, { from }), from + 1, from + 1);
    const after = readFileSync(path);
    const end = after.lastIndexOf(`{"step":${from + 1},"kind":"train"`);
    return after.subarray(0, end);
  };
  const crlf = `${line(1)}\r\n${line(2)}\r\n${line(3)}\r\n`;
  for (const from of [0, 1, 2, 3]) {
    const expected = Buffer.from(crlf.slice(0, (from * crlf.length) / 3));
    t.same(await resumed(crlf, from), expected, `line ends of Windows, from ${from}`);
    t.same(
      await resumed(`\ufeff${crlf}`, from),
      from === 0 ? Buffer.alloc(0) : Buffer.concat([Buffer.from('\ufeff'), expected]),
    );
  }
  const twice = await resumed(await resumed(crlf, 2), 2);
  t.equal(String(twice), `${line(1)}\r\n${line(2)}\r\n`, 'and again');

  // A name that was damaged: one byte of what was two.
  const damaged = Buffer.from(`${line(1, 'größe')}\n${line(2, 'größe')}\n${line(3)}\n`);
  damaged[damaged.indexOf(0xc3)] = 0x80;
  damaged[damaged.indexOf(0x80)] = 0xff;
  const length = Buffer.from(`${line(1, 'größe')}\n`).length;
  t.same(await resumed(damaged, 1), damaged.subarray(0, length));
  t.same(await resumed(damaged, 2), damaged.subarray(0, 2 * length));

  const large = Buffer.from(Array.from({ length: 9000 }, (_, i) => `${line(i + 1, 'ä'.repeat(200))}\n`).join(''));
  t.ok(large.length > 2 ** 21, 'more than is read at once');
  const kept = await resumed(large, 8000);
  t.same(kept, large.subarray(0, kept.length));
  t.equal(String(kept).split('\n').length, 8001);

  t.equal(String(await resumed(`${line(1)}\n${line(2)}`, 2)), `${line(1)}\n${line(2)}\n`, 'whole but for its end');
  t.equal(String(await resumed(`${line(1)}\n${line(2)}`, 1)), `${line(1)}\n`);
  t.equal(
    String(await resumed(`${line(1)}\n${'\0'.repeat(40)}`, 1)),
    `${line(1)}\n`,
    'what a crash of the machine leaves',
  );
  // Neither torn nor lines: nothing is thrown away.
  const classic = `${line(1)}\r${line(2)}\r`;
  await t.rejects(resumed(classic, 1), { code: 'ERR_SDPO_DATA', message: /line 1 of .*log to be a JSON object/ });
  t.equal(readFileSync(path, 'utf8'), classic);
});

t.test('JSON Lines: a name of a metric may have any character, and a line stays one for every reader', async (t) => {
  const path = join(t.testdir(), 'log');
  const names = ['a\u2028b', 'a\u2029b', 'a\u0085b', 'a\nb', 'a\r\nb', 'a\u000bb', 'a\fb', 'a\u001cb', '"\\', 'ä'];
  const metrics = Object.fromEntries(names.map((name, i) => [name, i]));
  const writer = jsonlWriter(path);
  await writer.write({ step: 1, kind: 'evaluation', metrics });
  await writer.close?.();
  const text = readFileSync(path, 'utf8');
  // biome-ignore lint/suspicious/noControlCharactersInRegex: what Python's splitlines splits at
  t.equal(text.trimEnd().split(/[\n\r\u000b\f\u001c-\u001e\u0085\u2028\u2029]/).length, 1);
  t.same(JSON.parse(text).metrics, metrics);
  await run(jsonlWriter(path, { from: 1 }), 2, 2);
  t.equal(readFileSync(path, 'utf8').split('\n').length, 3);
});

t.test('JSON Lines: only into a file', async (t) => {
  const folder = t.testdir({ folder: {} });
  spawnSync('mkfifo', [join(folder, 'fifo')]);
  const into = (path: string) => jsonlWriter(path).write(train(1)) as Promise<void>;
  await t.rejects(into(join(folder, 'fifo')), { code: 'ERR_SDPO_DATA', message: /fifo to be a file, received a FIFO/ });
  await t.rejects(into('/dev/zero'), { code: 'ERR_SDPO_DATA', message: /\/dev\/zero to be a file, received a device/ });
  await t.rejects(into(join(folder, 'folder')), /folder/);
});

t.test('console: chosen steps and fields', async (t) => {
  const printed = (options: Parameters<typeof consoleWriter>[1], entries: Entry[]) => {
    const stream = new PassThrough();
    const writer = consoleWriter(stream, options);
    for (const entry of entries) void writer.write(entry);
    return String(stream.read() ?? '');
  };
  const entries = [1, 2, 3, 4].map((step) => train(step, { 'rewards/margins': 0.0001234567, other: 3 }));
  t.equal(
    printed({ every: 2 }, entries),
    'step 2  loss 0.5  rewards/margins 0.0001235\nstep 4  loss 0.25  rewards/margins 0.0001235\n',
  );
  t.equal(printed(undefined, entries), '', 'every tenth by default');
  t.equal(
    printed({ every: 3, fields: ['other', 'absent', 'loss'] }, entries),
    'step 3  other 3  absent -  loss 0.3333\n',
  );
  const evaluation: Entry = {
    step: 7,
    kind: 'evaluation',
    metrics: { good: 0.91234, nan: NaN, big: 123456, off: -Infinity },
  };
  t.equal(
    printed({ fields: [] }, [evaluation]),
    'evaluation at step 7  good 0.9123  nan NaN  big 123456  off -Infinity\n',
  );
  t.throws(() => consoleWriter({} as never), /stream/);
  t.throws(() => consoleWriter(process.stdout, { every: 0 }), /options.every/);
  t.throws(() => consoleWriter(process.stdout, { fields: 'loss' as never }), /options.fields/);
  t.throws(() => consoleWriter(process.stdout, { each: 1 } as never), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
});

t.test('a name with a line break stays on its line', async (t) => {
  const stream = new PassThrough().setEncoding('utf8');
  await consoleWriter(stream).write({ step: 3, kind: 'evaluation', metrics: { 'a cat\nand\u2028a \u001b[31mdog': 1 } });
  t.equal(stream.read(), 'evaluation at step 3  a cat\\nand\\u2028a \\u001b[31mdog 1\n');
});

t.test('a log that cannot be written', async (t) => {
  const path = join(t.testdir({ 'log.jsonl': {} }), 'log.jsonl');
  const message =
    /^Expected to append the entry of step 4 to the log \(.*log\.jsonl\), received EISDIR: .*a folder has the name/;
  await t.rejects(Promise.resolve(jsonlWriter(path).write(train(4))), { code: 'ERR_SDPO_FILE', message });
});
