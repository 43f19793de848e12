/** The package as npm would publish it: exports, files and manifest agree. `npm run package` installs and runs the tarball itself. */
import { execFileSync, spawnSync } from 'node:child_process';
import { chmodSync, existsSync, readdirSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { firstExample, publishedManifest, tarballProblems } from '../../scripts/tarball.js';

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

t.test('the build goes on in a folder that a plain cmake has configured', (t) => {
  const folder = t.testdir({
    scripts: { 'build-native': read('scripts/build-native') },
    bin: { 'cmake-js': '#!/bin/sh\necho "$*"\n' },
    build: { 'CMakeCache.txt': 'SDPO_ADDON:STRING=OFF\nCMAKE_GENERATOR:INTERNAL=Unix Makefiles\n' },
  });
  chmodSync(join(folder, 'bin/cmake-js'), 0o755);
  const env = { PATH: `${join(folder, 'bin')}:${process.env.PATH}` };
  const run = (more = {}) =>
    spawnSync('sh', ['scripts/build-native', '-D'], { cwd: folder, encoding: 'utf8', env: { ...env, ...more } }).stdout;
  const taken = '--generator Unix Makefiles -D\n';
  t.equal(
    run(),
    `configure --CDSDPO_ADDON=ON ${taken}build --CDSDPO_ADDON=ON ${taken}`,
    'with its generator, and with the addon',
  );
  t.equal(run({ SDPO_ADDON: 'OFF' }), `configure ${taken}build ${taken}`, 'unless the environment says otherwise');
  rmSync(join(folder, 'build'), { recursive: true });
  t.equal(run(), 'configure -D\nbuild -D\n', 'a new folder has the generator of cmake-js');
  t.end();
});

t.test('the published manifest has what users need, and nothing that only a checkout can run', (t) => {
  const published = publishedManifest(manifest);
  t.same(
    Object.keys(manifest)
      .filter((name) => !(name in published))
      .sort(),
    ['devDependencies', 'scripts', 'tap', 'workspaces'],
  );
  t.match(published, { exports: manifest.exports, dependencies: manifest.dependencies, sdpo: manifest.sdpo });
  const { status, stderr } = spawnSync('npm', ['publish', '--dry-run'], { cwd: root, encoding: 'utf8' });
  t.not(status, 0, 'a checkout cannot be published as it is');
  t.match(stderr, /pack --all makes the tarballs/);
  t.end();
});

t.test('every system can install it, and every Node that it asks for is tried', (t) => {
  t.notOk(
    'os' in manifest || 'cpu' in manifest,
    'what does not import it works everywhere; importing it says what helps',
  );
  const oldest = /^>=([\d.]+)$/.exec(manifest.engines.node)?.[1];
  t.equal(JSON.parse(read('study/package.json')).engines.node, manifest.engines.node);
  for (const file of ['ci.yml', 'release.yml']) {
    t.match(read(`.github/workflows/${file}`), `node: ['${oldest}', 22, 24, 26]`, file);
  }
  for (const file of ['README.md', 'docs/install.md', 'CONTRIBUTING.md', 'lib/native/binding.ts']) {
    t.match(read(file), new RegExp(`Node (≥ )?${oldest?.replace('.', '\\.')}`), file);
  }
  t.end();
});

t.test('TypeScript finds every entry by any way of resolving', (t) => {
  const flat = manifest.typesVersions['*'] as Record<string, string[]>;
  const entries = Object.keys(manifest.exports).filter((path) => path !== '.' && !path.endsWith('.json'));
  t.same(Object.keys(flat).sort(), entries.map((path) => path.slice(2)).sort());
  for (const [file] of Object.values(flat)) t.ok(existsSync(join(root, file!)), file);
  t.end();
});

t.test('actions are pinned by commit', (t) => {
  for (const file of readdirSync(join(root, '.github/workflows'))) {
    for (const [, action] of read(`.github/workflows/${file}`).matchAll(/uses: (.+)/g)) {
      t.match(action, /^[\w-]+\/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/, `${file}: ${action}`);
    }
  }
  t.end();
});

t.test('what the binaries contain of others is named, in the wheel too', (t) => {
  const notices = read('THIRD_PARTY_NOTICES.md');
  for (const part of ['libcudart_static', 'libstdc++', 'libgcc', 'napi.h']) t.ok(notices.includes(part), part);
  const license = read('node_modules/node-addon-api/LICENSE.md').trim();
  t.ok(notices.includes(license), 'with the license of node-addon-api, which has to go with it');
  const lists = read('pyproject.toml').match(/^(license-files|sdist\.include) = .*$/gm) ?? [];
  t.equal(lists.filter((line) => line.includes('THIRD_PARTY_NOTICES.md')).length, 2);
  t.end();
});

t.test('the release makes every binary that the manifest promises', (t) => {
  const workflow = read('.github/workflows/release.yml');
  for (const platform of manifest.sdpo.prebuilds) t.match(workflow, new RegExp(`platform: ${platform}\\b`));
  t.end();
});
