/** The C library: its interface as C and C++ read it, a C program that tests it, the addon's bits, and what the file shows and needs. */

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { noise, PreferenceLoss } from '../../lib/index.js';
import { inspect } from '../../scripts/binary.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const library = join(root, 'build/Release/libsdpo.so');
const include = `-I${join(root, 'native/c')}`;
const strict = ['-Wall', '-Wextra', '-pedantic', '-Werror'];
const folder = mkdtempSync(join(tmpdir(), 'sdpo-capi-'));
t.teardown(() => rmSync(folder, { recursive: true, force: true }));

t.ok(existsSync(library), `${library} is built`, { bail: true });

/** hexadecimal floating point, as C's %a prints it. */
function parseHex(text: string): number {
  const match = /^(-?)0x([0-9a-f])(?:\.([0-9a-f]+))?p([+-]\d+)$/.exec(text);
  if (match === null) throw new Error(`not a hexadecimal number: ${text}`);
  const [, sign, whole, fraction = '', exponent] = match;
  const mantissa = Number.parseInt(whole + fraction, 16) / 16 ** fraction.length;
  return (sign === '-' ? -1 : 1) * mantissa * 2 ** Number(exponent);
}

t.test('the program of docs/c.md', (t) => {
  const [, text] = /^```c\n(.*?)^```$/ms.exec(readFileSync(join(root, 'docs/c.md'), 'utf8'))!;
  const [source, program] = [join(folder, 'pairs.c'), join(folder, 'pairs')];
  writeFileSync(source, text);
  const rpath = `-Wl,-rpath,${join(root, 'build/Release')}`;
  execFileSync('cc', ['-std=c99', ...strict, include, source, '-o', program, library, '-lm', rpath]);
  const tensor = (seed: number) => noise(seed, 0, new Float32Array(2 * 16384));
  const { loss } = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 10 }).evaluate({
    rows: 2,
    chosen: { policy: tensor(0), reference: tensor(1), target: tensor(2) },
    rejected: { policy: tensor(3), reference: tensor(4), target: tensor(5) },
  });
  const [, printed] = /^loss (\S+)$/m.exec(execFileSync(program, { encoding: 'utf8' }))!;
  t.equal(Number(printed), Number(loss.toPrecision(6)), 'it prints the loss of the same numbers');
  t.end();
});

t.test('a C99 program', (t) => {
  const program = join(folder, 'capi');
  const source = join(root, 'test/build/c/capi.c');
  execFileSync('cc', [
    '-std=c99',
    ...strict,
    include,
    source,
    '-o',
    program,
    library,
    '-lm',
    `-Wl,-rpath,${join(root, 'build/Release')}`,
  ]);
  const { stdout, stderr, status } = spawnSync(program, { encoding: 'utf8' });
  const lines = stdout.split('\n');
  const checks = lines.filter((line) => /^(not )?ok /.test(line));
  for (const line of checks) t.ok(line.startsWith('ok '), line.replace(/^(not )?ok \d+ - /, ''));
  t.equal(status, 0, stderr);
  t.ok(lines.includes(`1..${checks.length}`), 'all checks have run');

  // The same batch through the addon: one set of objects, so the same bits.
  const [rows, size] = [3, 40];
  const tensor = (seed: number) => noise(seed, 0, new Float32Array(rows * size));
  const loss = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 4 });
  const result = loss.evaluate({
    timesteps: new Float64Array(rows),
    transition: { omega: new Float64Array(rows) },
    chosen: { policy: tensor(0), reference: tensor(1), target: tensor(2) },
    rejected: { policy: tensor(3), reference: tensor(4), target: tensor(5) },
  });
  const field = (name: string) =>
    lines.filter((line) => line.startsWith(`# ${name} `)).map((line) => line.split(' ').slice(2).map(parseHex));
  t.same(field('loss'), [[result.loss]]);
  const gradients = field('gradient');
  t.same(
    gradients.map(([chosen]) => chosen),
    [...result.gradients.chosen],
  );
  t.same(
    gradients.map(([, rejected]) => rejected),
    [...result.gradients.rejected],
  );
  t.end();
});

t.test('the header by itself, as C and as C++', (t) => {
  writeFileSync(
    join(folder, 'header.c'),
    '#include "sdpo.h"\nint main(void) { return sdpo_abi_version() == SDPO_ABI_VERSION ? 0 : 1; }\n',
  );
  for (const [compiler, language, standard] of [
    ['cc', 'c', 'c99'],
    ['cc', 'c', 'c17'],
    ['c++', 'c++', 'c++11'],
    ['c++', 'c++', 'c++20'],
  ]) {
    const program = join(folder, `header-${standard.replace(/\W/g, 'x')}`);
    execFileSync(compiler, [
      `-std=${standard}`,
      ...strict,
      include,
      '-x',
      language,
      join(folder, 'header.c'),
      '-x',
      'none',
      library,
      '-o',
      program,
      `-Wl,-rpath,${join(root, 'build/Release')}`,
    ]);
    t.equal(spawnSync(program).status, 0, standard);
  }
  t.end();
});

t.test('the file', (t) => {
  const facts = inspect(library);
  const declared = [
    ...readFileSync(join(root, 'native/c/sdpo.h'), 'utf8').matchAll(/^SDPO_API [^;]*?\b(sdpo_\w+)\(/gm),
  ].map((match) => match[1]);
  t.ok(declared.length >= 15);
  t.same(
    facts.exported.filter((name) => name !== '').sort(),
    declared.sort(),
    'shows what the header declares and nothing else',
  );
  t.same(facts.foreign, [], 'needs symbols of glibc only');
  t.same(facts.searchPath, []);
  const addon = inspect(join(root, 'build/Release/sdpo.node'));
  t.same(facts.needed.sort(), addon.needed.sort(), 'needs the same system libraries as the addon');
  t.end();
});
