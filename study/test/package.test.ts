/** The package as npm would publish it, and that it knows `sdpo` by its public exports only. */

import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import ts from 'typescript';
import { tarballProblems } from '../../scripts/tarball.js';

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const study = join(root, 'study');
const manifestOf = (folder: string) => JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'));
const manifest = manifestOf(study);
const sdpo = manifestOf(root);

t.test('its version and licence are those of sdpo, which it is a peer of', async (t) => {
  t.equal(manifest.version, sdpo.version);
  t.equal(manifest.peerDependencies.sdpo, `^${sdpo.version}`);
  t.equal(manifest.engines.node, sdpo.engines.node);
  t.equal(readFileSync(join(study, 'LICENSE'), 'utf8'), readFileSync(join(root, 'LICENSE'), 'utf8'));
  for (const [name, range] of Object.entries(manifest.dependencies)) {
    const other = sdpo.dependencies[name] ?? sdpo.devDependencies[name];
    t.equal(other ?? range, range, `${name} in the same range, so that it is installed once`);
  }
});

t.test('the tarball has all that belongs into it and nothing else', async (t) => {
  const args = ['pack', '--dry-run', '--json', '--ignore-scripts'];
  const output = execFileSync('npm', args, { cwd: study, encoding: 'utf8', stdio: 'pipe' });
  const [{ name, files }] = JSON.parse(output) as [{ name: string; files: { path: string }[] }];
  t.equal(name, 'sdpo-study');
  const packed = files.map(({ path }) => path);
  t.same(tarballProblems(root, 'sdpo-study', packed), []);
  for (const path of [manifest.main, manifest.types, ...Object.values<string>(manifest.bin)]) {
    t.ok(packed.includes(path.replace(/^\.\//, '')), path);
  }
});

/** What a source imports, at its top or later. */
function importsOf(file: string): string[] {
  return ts.preProcessFile(readFileSync(file, 'utf8')).importedFiles.map(({ fileName }) => fileName);
}

t.test('its sources import each other, what the manifest names, and public paths of sdpo', async (t) => {
  const lib = join(study, 'lib');
  const sources = readdirSync(lib, { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));
  const used = new Set<string>();
  for (const source of sources) {
    for (const name of importsOf(join(lib, source))) {
      if (name.startsWith('node:')) continue;
      if (name.startsWith('.')) {
        const file = join(dirname(join(lib, source)), name.replace(/\.js$/, '.ts'));
        t.ok(file.startsWith(`${lib}/`) && existsSync(file), `${source}: ${name}`);
        continue;
      }
      const [, part, path = ''] = /^((?:@[^/]+\/)?[^/]+)(\/.+)?$/.exec(name)!;
      used.add(part);
      if (part === 'sdpo') t.ok(`.${path}` in sdpo.exports, `${source}: ${name} is an export`);
    }
  }
  const declared = [...Object.keys(manifest.dependencies), ...Object.keys(manifest.peerDependencies)];
  t.same([...used].sort(), [...declared].sort());
});
