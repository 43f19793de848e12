/** The package as it is installed: which commands work with nothing but its dependencies, and what an import of it loads. */

import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { sdpo, writeConfig } from '../helpers/cli-runs.js';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** The folder of a copy of the built package beside which nothing but its dependencies is installed. */
function installed(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'sdpo-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  for (const name of ['dist', 'schema', 'package.json'])
    cpSync(join(root, name), join(folder, name), { recursive: true });
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  for (const name of ['build', ...Object.keys(dependencies).map((name) => `node_modules/${name}`)]) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    symlinkSync(join(root, name), join(folder, name));
  }
  return folder;
}

t.test('every command has its help and works', async (t) => {
  const program = [join(installed(t), 'dist/cli/cli.js')];
  const run = (...args: string[]) => sdpo(args, { program });
  for (const command of ['train', 'calibrate', 'study', 'report', 'doctor', 'selftest']) {
    const { status, stdout, stderr } = await run(command, '--help');
    t.match({ status, stderr }, { status: 0, stderr: '' });
    t.match(stdout, new RegExp(`^Usage: sdpo ${command} `));
    const coded = ['train', 'calibrate'].includes(command);
    if (coded) t.match(stdout, /^Exit codes: 0 done, 1 failed, 2 wrong usage or config, 3 .*, 130 interrupted$/m);
  }
  const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  t.match(await run('--version'), { status: 0, stdout: `${version}\n`, stderr: '' });
  const config = writeConfig(t.testdir());
  t.match(await run('train', config, '--quiet'), { status: 0, stderr: '' });
  t.match(await run('calibrate', config), { status: 0, stderr: '' });
  t.match(await run('doctor'), { status: 0, stderr: '' });
});

t.test('study and report say which package they are in and end with 2', async (t) => {
  const said = async (...args: string[]) => {
    const { status, stdout, stderr } = await sdpo(args);
    t.match({ status, stdout }, { status: 2, stdout: '' }, args.join(' '));
    return stderr;
  };
  t.equal(
    await said('report', 'runs/first', "it's here", '--out', 'page.html'),
    'Expected a command of sdpo, received report, which is one of the package sdpo-study: npm install sdpo-study, ' +
      "then npx sdpo-study report runs/first 'it'\\''s here' --out page.html\n",
  );
  t.match(
    await said('study', 'study.json', '--only', 'seed=0'),
    /then npx sdpo-study study study\.json --only seed=0$/m,
  );
  t.match(await said('study'), /npm install sdpo-study, then npx sdpo-study study$/m);
  const json = await sdpo(['study', 'study.json', '--json']);
  t.match(json, { status: 2, stderr: '' });
  t.match(JSON.parse(json.stdout), { error: { code: 'ERR_SDPO_CONFIG', message: /sdpo-study/ } });
  t.match((await sdpo(['--help'])).stdout, /^ +report [^)]*\(npm\s+install\s+sdpo-study\)/m);
});

/** Prints every file that an import loads, beside what the test runner has loaded into the process. */
const listing = (file: string) => `
  import { createRequire, register } from 'node:module';
  const hooks = \`
    import { writeSync } from 'node:fs';
    export async function load(url, context, next) {
      if (url.startsWith('file:')) writeSync(1, new URL(url).pathname + '\\\\n');
      return next(url, context);
    }\`;
  register('data:text/javascript,' + encodeURIComponent(hooks));
  const { cache } = createRequire(import.meta.url);
  const before = Object.keys(cache);
  await import(${JSON.stringify(file)});
  for (const name of Object.keys(cache)) if (!before.includes(name)) console.log(name);`;

t.test('importing the package loads the loss and node-gyp-build, and nothing else', async (t) => {
  const folder = installed(t);
  const program = ['--input-type=module', '-e', listing(join(folder, 'dist/index.js'))];
  const { status, stdout, stderr } = await sdpo([], { program });
  t.match({ status, stderr }, { status: 0, stderr: '' });
  const files = stdout.trim().split('\n');
  const own = files.filter((file) => file.startsWith(join(folder, 'dist/')));
  const rooms = new Set(own.map((file) => dirname(file).slice(join(folder, 'dist').length)));
  t.same([...rooms].sort(), ['', '/files', '/loss', '/native', '/schedule', '/tensor']);
  const packages = files.flatMap((file) => /.*\/node_modules\/((?:@[^/]+\/)?[^/]+)\//.exec(file)?.[1] ?? []);
  t.same([...new Set(packages)], ['node-gyp-build']);
  const others = files.filter((file) => !own.includes(file) && !file.includes('/node_modules/'));
  // node-gyp-build reads the manifest for the name of a prebuilt binary.
  t.same(new Set(others.map((file) => file.replace(/.*\//, ''))), new Set(['package.json', 'sdpo.node']));
});
