/** docs/recipes.md: what it says is computed is what the shapes and schedules give. */

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import t from 'tap';

const root = fileURLToPath(new URL('../..', import.meta.url));

t.test('the computed numbers of docs/recipes.md', async (t) => {
  const { status, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'scripts/recipes.ts', '--check'], {
    cwd: root,
    encoding: 'utf8',
  });
  t.equal(status, 0, stderr);
});
