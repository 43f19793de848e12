/** The lines of docs/trainer.md that feed metrics.jsonl to trackers, run with the trackers' own Python packages. */

import { spawnSync } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { jsonlWriter } from '../../lib/trainer/index.js';
import { interpreters } from '../helpers/python.js';

const page = readFileSync(fileURLToPath(new URL('../../docs/trainer.md', import.meta.url)), 'utf8');
const section = page.slice(page.indexOf('## Loggers'), page.indexOf('## When a run cannot learn'));
const [tensorboard, wandb] = [...section.matchAll(/```python\n([\s\S]*?)```/g)].map(([, code]) => code);

const ENTRIES = [
  { step: 1, kind: 'train', metrics: { loss: 0.5, 'rewards/margins': -0.25, driftChosen: NaN } },
  { step: 2, kind: 'train', metrics: { loss: 0.25, 'rewards/margins': 0.75, driftChosen: 2 } },
  { step: 2, kind: 'validation', metrics: { loss: 0.125 } },
  { step: 2, kind: 'evaluation', metrics: { score: 3 } },
] as const;

/** The log as the trainer writes it. */
async function logOf(folder: string): Promise<string> {
  const path = join(folder, 'metrics.jsonl');
  const writer = jsonlWriter(path);
  for (const entry of ENTRIES) await writer.write(entry);
  await writer.close?.();
  return readFileSync(path, 'utf8');
}

/** The first interpreter that has these modules. */
function pythonWith(modules: string): string | undefined {
  const paths = interpreters().map(({ path }) => path);
  return paths.find((path) => spawnSync(path, ['-c', `import ${modules}`]).status === 0);
}

const without = (modules: string, python: string | undefined) =>
  python === undefined ? `no interpreter has ${modules} (scripts/python-env)` : false;

const forTensorboard = pythonWith('torch.utils.tensorboard');
const READ = `
import json
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
events = EventAccumulator("tensorboard")
events.Reload()
print(json.dumps({tag: [[event.step, event.value] for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}))
`;

t.test('TensorBoard', { skip: without('torch.utils.tensorboard', forTensorboard) }, async (t) => {
  const folder = t.testdir();
  const input = await logOf(folder);
  const fed = spawnSync(forTensorboard!, ['-c', tensorboard!], { cwd: folder, input, encoding: 'utf8' });
  t.equal(fed.status, 0, fed.stderr);
  const read = spawnSync(forTensorboard!, ['-c', READ], { cwd: folder, encoding: 'utf8' });
  t.equal(read.status, 0, read.stderr);
  t.strictSame(JSON.parse(read.stdout), {
    'train/loss': [
      [1, 0.5],
      [2, 0.25],
    ],
    'train/rewards/margins': [
      [1, -0.25],
      [2, 0.75],
    ],
    'train/driftChosen': [[2, 2]],
    'validation/loss': [[2, 0.125]],
    'evaluation/score': [[2, 3]],
  });
});

const forWandb = pythonWith('wandb');

t.test('W&B, offline', { skip: without('wandb', forWandb) }, async (t) => {
  const folder = t.testdir();
  const input = await logOf(folder);
  const env = { ...process.env, WANDB_MODE: 'offline', WANDB_SILENT: 'true', WANDB_DIR: folder };
  const fed = spawnSync(forWandb!, ['-c', wandb!], { cwd: folder, input, encoding: 'utf8', env });
  t.equal(fed.status, 0, fed.stderr);
  const [run] = readdirSync(join(folder, 'wandb')).filter((name) => name.startsWith('offline-run-'));
  const file = readdirSync(join(folder, 'wandb', run!)).find((name) => name.endsWith('.wandb'));
  // Protocol buffers: a name, the tag and length of what follows, the value as JSON.
  const text = readFileSync(join(folder, 'wandb', run!, file!)).toString('latin1');
  for (const { kind, metrics } of ENTRIES) {
    for (const [name, value] of Object.entries(metrics)) {
      if (Number.isNaN(value)) continue;
      const at = new RegExp(`${kind}/${name}[^]{1,4}${String(value).replace('.', '\\.')}`);
      t.match(text, at, `${kind}/${name} ${value}`);
    }
  }
});

const forTrackio = pythonWith('trackio');

t.test('trackio', { skip: without('trackio', forTrackio) }, async (t) => {
  const folder = t.testdir();
  const input = await logOf(folder);
  const env = { ...process.env, TRACKIO_DIR: join(folder, 'trackio') };
  const script = wandb!.replace('import wandb', 'import trackio as wandb');
  const fed = spawnSync(forTrackio!, ['-c', script], { cwd: folder, input, encoding: 'utf8', env });
  t.equal(fed.status, 0, fed.stderr);
  t.ok(readdirSync(join(folder, 'trackio')).length > 0, 'it keeps the run');
});

t.test('each tracker has its lines', async (t) => {
  t.match(tensorboard, /SummaryWriter/);
  t.match(wandb, /wandb\.log/);
});
