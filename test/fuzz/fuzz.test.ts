/** A small part of `npm run fuzz`, always the same: damaged files of every kind are read as they are, or refused. */

import t from 'tap';
import { Fuzzer, TARGETS } from './fuzz.js';

const FILES = 150;

for (const [name, make] of Object.entries(TARGETS)) {
  t.test(name, async (t) => {
    const fuzzer = new Fuzzer(await make(), 1);
    t.teardown(() => fuzzer.end());
    await fuzzer.begin();
    let refused = 0;
    for (let index = 0; index < FILES; index++) {
      const { result, error, seed } = await fuzzer.run(index);
      if (result === 'wrong') t.fail(`file ${index}, of ${seed}: ${(error as Error)?.stack}`);
      if (result !== 'read') refused++;
    }
    t.ok(refused > 0 && refused < FILES, `${refused} of ${FILES} were refused`);
  });
}
