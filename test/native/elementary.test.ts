/** The elementary functions of the host: their error, and that their bits are the same whatever the compiler makes of them. */

import { execFileSync } from 'node:child_process';
import t from 'tap';
import { compile, compiler } from '../helpers/compile.js';

/** Of the results, which no compiler, instruction set or library of mathematics may change. */
const hashes: Readonly<Record<string, string>> = {
  exp: '15110ddcc041c990',
  expm1: '2e26f1f62bc62e4a',
  log: 'a8edd0dbd67bd9ee',
  log1p: 'eeeba5333204e1ac',
  cosine: '0da1e0a3fb6a0f61',
  sine: '2de6d46ea2b89235',
};

t.test('errors and bits', { skip: compiler() === undefined && 'there is no C++ compiler' }, (t) => {
  const variants = process.arch === 'x64' ? [['-O0'], ['-O3'], ['-O3', '-mavx2', '-mfma']] : [['-O0'], ['-O3']];
  for (const flags of variants) {
    const program = compile(t.testdir({}), 'elementary', [], flags);
    const lines = execFileSync(program, { encoding: 'utf8' }).trim().split('\n');
    const found = lines.filter((line) => !line.startsWith('special')).map((line) => line.split(' '));
    t.equal(found.length, 6, `all functions (${flags.join(' ')})`);
    for (const [name, worst, hash] of found) {
      t.ok(Number(worst) > 0.4 && Number(worst) < 1.25, `${name} is off by less than 1.25 ulp`, { worst });
      t.equal(hash, hashes[name], `${name} has its bits`);
    }
    const special = lines.filter((line) => line.startsWith('special'));
    t.same(special, Array(4).fill('special ok'), 'infinities, NaN, zeros and subnormals');
  }
  t.end();
});
