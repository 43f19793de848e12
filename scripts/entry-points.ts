/**
 * Writes dist/<name>.js for every entry of the manifest that lies in a room of dist/: paths that people call directly, such as
 * `node --import tsx node_modules/sdpo/dist/cli.js` for a config with TypeScript modules, do not follow the rooms.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = new URL('../', import.meta.url);
const manifest = JSON.parse(readFileSync(new URL('package.json', root), 'utf8')) as {
  exports: { [path: string]: string | { default: string } };
  bin: { [name: string]: string };
};

/** [name, file within dist/] of everything that the manifest offers. */
export const entryPoints = [
  ...Object.entries(manifest.exports).flatMap(([path, target]) =>
    typeof target === 'string' ? [] : [{ name: basename(path), file: target.default }],
  ),
  ...Object.values(manifest.bin).map((file) => ({ name: basename(file, '.js'), file })),
]
  .map(({ name, file }) => ({ name, file: file.replace(/^(\.\/)?dist\//, '') }))
  .filter(({ file }) => file.includes('/'));

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const { name, file } of entryPoints) {
    const text = `export * from './${file}';\n`;
    if (!existsSync(new URL(`dist/${file}`, root))) throw new Error(`dist/${file} is not built`);
    for (const extension of ['js', 'd.ts']) writeFileSync(new URL(`dist/${name}.${extension}`, root), text);
  }
}
