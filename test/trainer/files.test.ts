/** Files of the trainer by themselves: what is put in the place of another. */

import fs, { mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { replaceDurably } from '../../lib/trainer/files.js';

t.test('a file of any size takes the place of another', async (t) => {
  const folder = t.testdir({ weights: 'before' });
  const path = join(folder, 'weights');
  // A stand-in for the limit of 2 GiB that a single call of the system has.
  t.capture(fs, 'write', (_file: number, data: Uint8Array) => {
    throw new RangeError(`the length is out of range: ${data.length}`);
  });
  const data = Uint8Array.from({ length: 3 * 2 ** 20 + 1 }, (_, i) => i % 251);
  await replaceDurably(path, data.subarray(1));
  t.ok(readFileSync(path).equals(Buffer.from(data.subarray(1))));
  t.same(readdirSync(folder), ['weights']);
});

t.test('where it cannot, nothing is left of it', async (t) => {
  const folder = t.testdir({ taken: { inside: 'kept' } });
  await t.rejects(replaceDurably(join(folder, 'taken'), Uint8Array.of(1)), { code: 'EISDIR' });
  t.same(readdirSync(folder), ['taken']);
  mkdirSync(join(folder, 'other'));
  writeFileSync(join(folder, 'other', 'weights'), 'kept');
  await t.rejects(replaceDurably(join(folder, 'missing', 'weights'), Uint8Array.of(1)), { code: 'ENOENT' });
  t.same(readdirSync(folder).sort(), ['other', 'taken']);
});
