/** The package as npm would publish it: exports, files and manifest agree. `npm run package` installs and runs the tarball itself. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { firstExample, tarballProblems } from '../../scripts/tarball.js';

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const read = (file: string) => readFileSync(join(root, file), 'utf8');
const manifest = JSON.parse(read('package.json'));

/** Every path that the manifest's `exports`, `main`, `types` and `bin` name. */
function targets(value: unknown): string[] {
  if (typeof value === 'string') return [value];
  if (value !== null && typeof value === 'object') return Object.values(value).flatMap(targets);
  return [];
}

function packedFiles(): string[] {
  const output = execFileSync('npm', ['pack', '--dry-run', '--json', '--ignore-scripts'], {
    cwd: root,
    encoding: 'utf8',
    stdio: 'pipe',
  });
  return (JSON.parse(output) as [{ files: { path: string }[] }])[0].files.map((file) => file.path);
}

t.test('what the manifest names exists and is packed', (t) => {
  const packed = packedFiles();
  for (const path of targets([manifest.main, manifest.types, manifest.bin, manifest.exports])) {
    const name = path.replace(/^\.\//, '');
    t.ok(existsSync(join(root, name)), `${name} exists`);
    t.ok(packed.includes(name), `${name} is packed`);
  }
  for (const entry of Object.values(manifest.exports)) {
    // TypeScript takes the first condition that fits, so `types` has to stand before the file.
    if (typeof entry === 'object') t.equal(Object.keys(entry as object)[0], 'types');
  }
  t.same(tarballProblems(root, 'sdpo', packed), []);
  for (const file of packed.filter((name) => name.endsWith('.js'))) {
    t.notMatch(read(file), 'sourceMappingURL', `${file} names no map, since none is packed`);
  }
  t.same(
    packed.filter((file) => /study|report/.test(file)),
    ['dist/cli/study.d.ts', 'dist/cli/study.js'],
    'of studies there is only where they are',
  );
  t.end();
});

t.test('the check of the contents finds what is wrong', (t) => {
  const packed = packedFiles();
  const without = (file: string) =>
    tarballProblems(
      root,
      'sdpo',
      packed.filter((name) => name !== file),
    );
  t.same(without('LICENSE'), ['missing: LICENSE']);
  t.same(without('dist/native/binding.js'), ['missing: dist/native/binding.js']);
  t.same(without('native/node/addon.cc'), ['missing: native/node/addon.cc']);
  const extra = (file: string) => tarballProblems(root, 'sdpo', [...packed, file]);
  t.same(extra('test/oracle/oracle.ts'), ['unexpected: test/oracle/oracle.ts']);
  t.same(extra('node_modules/tap/package.json'), ['unexpected: node_modules/tap/package.json']);
  t.same(extra('dist/gone.js'), ['without a source in lib/: dist/gone.js']);
  t.same(tarballProblems(root, 'sdpo', packed, ['plan9-x64']), ['missing: prebuilds/plan9-x64/sdpo.glibc.node']);
  t.end();
});

t.test('the addon is stated where the tools look for it', (t) => {
  t.same(manifest.binary, { napi_versions: [8] }, 'cmake-js downloads no Node headers');
  t.match(read('CMakeLists.txt'), /NAPI_VERSION=8\b/);
  t.notOk('install' in manifest.scripts || 'postinstall' in manifest.scripts, 'installing runs no script');
  for (const script of ['scripts/build-native', 'scripts/node-gyp', '.ci/run']) {
    t.ok(statSync(join(root, script)).mode & 0o100, `${script} is executable`);
  }
  t.match(
    read('README.md'),
    new RegExp(`glibc[^\\n]*${manifest.sdpo.glibc.prebuilt.replace('.', '\\.')}`),
    'the README states the minimum glibc',
  );
  t.ok(firstExample(read('README.md')).includes("from 'sdpo'"));
  t.end();
});

t.test('the release makes every binary that the manifest promises', (t) => {
  const workflow = read('.github/workflows/release.yml');
  for (const platform of manifest.sdpo.prebuilds) t.match(workflow, new RegExp(`platform: ${platform}\\b`));
  t.end();
});
