/** Metrics writers: lines as documented, resumed files equal to uninterrupted ones, torn lines, and console output. */

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

t.test('console: chosen steps and fields', async (t) => {
  const printed = (options: Parameters<typeof consoleWriter>[1], entries: Entry[]) => {
    const stream = new PassThrough();
    const writer = consoleWriter(stream, options);
    for (const entry of entries) writer.write(entry);
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
