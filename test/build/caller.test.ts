/** What a call of the C library takes and depends on of its caller: a program in C tests it, on threads and in environments of its own. */

import { execFileSync, spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const root = fileURLToPath(new URL('../..', import.meta.url));
const release = join(root, 'build/Release');

t.test('stack and floating-point environment', (t) => {
  const program = join(t.testdir({}), 'caller');
  const flags = ['-std=c99', '-O1', '-Wall', '-Wextra', '-pedantic', '-Werror'];
  const libraries = [join(release, 'libsdpo.so'), '-lm', '-pthread', `-Wl,-rpath,${release}`];
  execFileSync('cc', [...flags, join(root, 'test/build/c/caller.c'), '-o', program, ...libraries]);
  const { stdout, stderr, status, signal } = spawnSync(program, { encoding: 'utf8' });
  t.equal(signal, null);
  const lines = stdout.split('\n');
  const checks = lines.filter((line) => /^(not )?ok /.test(line));
  for (const line of checks) t.ok(line.startsWith('ok '), line.replace(/^(not )?ok \d+ - /, ''));
  t.equal(status, 0, stderr);
  t.ok(lines.includes(`1..${checks.length}`), 'all checks have run');
  t.end();
});
