/** The rooms of lib/: arrows point down, there are no circles, and no file is longer than can be read in one sitting. */

import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const root = fileURLToPath(new URL('../..', import.meta.url));
const filesOf = (folder: string, pattern: RegExp): string[] =>
  readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && pattern.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)));

/** From the top of the house down: a room imports from those behind it in the list only. */
const FLOORS = ['index.ts', 'cli', 'trainer', 'selftest', 'adapters', 'loss', 'schedule', 'tensor', 'files', 'native'];
const roomOf = (file: string) => file.split('/')[1];

interface Arrow {
  from: string;
  to: string;
}

const arrows: Arrow[] = filesOf('lib', /\.ts$/).flatMap((from) =>
  [...readFileSync(join(root, from), 'utf8').matchAll(/(?:from |import\()'(\.[^']+)\.js'/g)]
    .map(([, path]) => ({ from, to: `${relative(root, join(root, dirname(from), path))}.ts` }))
    .filter(({ to }) => to.startsWith('lib/')),
);

t.test('rooms', async (t) => {
  t.same([...new Set(filesOf('lib', /\.ts$/).map(roomOf))].sort(), [...FLOORS].sort(), 'index.ts and rooms only');
  const upwards = arrows.filter(({ from, to }) => FLOORS.indexOf(roomOf(from)) > FLOORS.indexOf(roomOf(to)));
  t.same(upwards, [], 'no arrow points up');
});

t.test('no circles between files', async (t) => {
  const next = new Map<string, string[]>();
  for (const { from, to } of arrows) next.set(from, [...(next.get(from) ?? []), to]);
  const done = new Set<string>();
  const walk = (file: string, path: readonly string[]): void => {
    if (path.includes(file)) {
      t.fail(`a circle: ${[...path.slice(path.indexOf(file)), file].join(' -> ')}`);
      return;
    }
    if (done.has(file)) return;
    for (const to of next.get(file) ?? []) walk(to, [...path, file]);
    done.add(file);
  };
  for (const file of next.keys()) walk(file, []);
  t.ok(done.size > 50, `${done.size} files`);
});

t.test('no file has more than 400 lines, and each says what it is for', async (t) => {
  for (const file of [...filesOf('lib', /\.ts$/), ...filesOf('native', /\.(h|cc|cu|cuh|inl)$/)]) {
    const text = readFileSync(join(root, file), 'utf8');
    t.ok(text.split('\n').length <= 401, file);
    t.match(text, /^(#!.*\n)?(\/\*|\/\/)/, `${file} opens with a comment`);
  }
});

t.test('native rooms', async (t) => {
  for (const file of filesOf('native', /\.(h|cc|cu|cuh|inl)$/)) {
    const text = readFileSync(join(root, file), 'utf8');
    t.equal(text.includes('<napi.h>') && !file.startsWith('native/node/'), false, `${file}: napi.h belongs to node/`);
    const cuda = /#include <cuda/.test(text);
    t.equal(cuda && !file.startsWith('native/cuda/'), false, `${file}: CUDA headers belong to cuda/`);
    if (/^native\/(node|c)\//.test(file)) t.notMatch(text, /\.\.\/(cpu|cuda)\//, `${file} names no backend`);
  }
});
