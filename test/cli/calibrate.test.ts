/** `sdpo calibrate` as a user starts it: what it proposes, from what, and that the proposal does what it says. */

import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { sdpo, start, writeConfig } from '../helpers/cli-runs.js';

interface Calibration {
  rows: number;
  keep: number;
  keepFraction: number;
  kappa: number;
  tau: number;
  beta: number;
  bins: unknown[];
}

async function calibrate(args: readonly string[]): Promise<Calibration> {
  const { status, stdout, stderr } = await sdpo(['calibrate', ...args, '--json']);
  if (status !== 0) throw new Error(`it ended with ${status}: ${stderr}${stdout}`);
  return JSON.parse(stdout);
}

t.test('the proposed κ and τ keep the share that was asked for', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder, { loss: { maskThreshold: 0.8 } });
  const size = ['--batches', '25'];
  const kappa = await calibrate([config, '--keep', '0.5', ...size]);
  t.match(kappa, { rows: 200, keep: 0.5, tau: 0.8, kappa: Number, beta: Number });
  t.equal(kappa.keepFraction, 0.5);
  t.equal(kappa.bins.length, 10);
  const judged = [...size, '--propose', 'none', '--set', `loss.weightSharpness=${kappa.kappa}`];
  t.match(await calibrate([config, ...judged]), { keepFraction: 0.5, kappa: kappa.kappa, tau: 0.8, keep: 0.8 });

  const tau = await calibrate([config, '--keep', '0.5', ...size, '--propose', 'tau', '--bins', '3']);
  t.match(tau, { kappa: 4, keepFraction: 0.5, beta: kappa.beta });
  t.equal(tau.bins.length, 3);
  const both = [...size, '--propose', 'none', '--set', `loss.maskThreshold=${tau.tau}`];
  t.match(await calibrate([config, ...both]), { keepFraction: 0.5 });

  t.not((await calibrate([config, ...size, '--set', 'seed=1'])).beta, kappa.beta, 'other pairs, timesteps and noise');
  t.equal((await calibrate([config, ...size, '--set', 'threshold.keep=0.25'])).keep, 0.25);
  t.same(readdirSync(folder), ['config.json'], 'nothing is written');
});

t.test('the table and the lines to paste', async (t) => {
  const folder = t.testdir();
  const text = await sdpo(['calibrate', writeConfig(folder)]);
  t.match(text, { status: 0, stderr: '' });
  t.match(text.stdout, /^timesteps +rows +error chosen/);
  t.match(text.stdout, /^ {2}"weightSharpness": \S+,\n {2}"maskThreshold": 0\.9,\n {2}"beta": \S+,$/m);
  const dpo = { objective: 'diffusion-dpo', weightSharpness: undefined };
  const other = await sdpo(['calibrate', writeConfig(folder, { loss: dpo })]);
  t.match(other.stdout, /are for dpo-cm and sdpo; the config has diffusion-dpo\.\n$/);
  const all = await sdpo(['calibrate', writeConfig(folder), '--propose', 'none', '--set', 'loss.weightSharpness=1e-9']);
  t.match(all.stdout, /^warning: the given κ and τ keep 100\.0 % of the rows, above 99 %/m);
});

t.test('β is measured by a trial, or assumed', async (t) => {
  const folder = t.testdir();
  const loss = { objective: 'diffusion-dpo', weightSharpness: undefined };
  const config = writeConfig(folder, { loss, training: { steps: 100, learningRate: { peak: 1e-2 } } });
  const measured = await calibrate([config]);
  t.match(measured, { betaFrom: 'trial', trial: { steps: 16, learningRate: 1e-3, drift: Number } });
  const { drift } = (measured as unknown as { trial: { drift: number } }).trial;
  // Ten updates at 1e-2 against sixteen at 1e-3.
  t.ok(Math.abs(measured.beta * drift * (0.1 / 0.016) - 1) < 1e-9);
  const shorter = await calibrate([config, '--trial', '4']);
  t.match(shorter, { trial: { steps: 4 } });
  t.match(await calibrate([config, '--trial', '0']), { betaFrom: 'assumption', trial: undefined });
  for (const wrong of ['1', '-2', 'x']) t.match(await sdpo(['calibrate', config, '--trial', wrong]), { status: 2 });
});

t.test('what cannot be calibrated ends it with 2', async (t) => {
  const config = writeConfig(t.testdir());
  const wrong: [string[], RegExp][] = [
    [['--keep', '1'], /Expected a number in \(0, 1\)/],
    [['--propose', 'beta'], /Allowed choices are kappa, tau, none/],
    [
      ['--set', 'loss.weightRatio="policy/reference"'],
      /Expected loss\.weightRatio to be policy\/data or reference\/data/,
    ],
    [
      ['--set', 'loss.maskThreshold=0'],
      /Expected loss\.maskThreshold to be in \(0, 1\) \(or --propose tau\), received 0/,
    ],
    [['--set', 'los.beta=1'], /did you mean "loss"\?/],
  ];
  for (const [args, message] of wrong) {
    t.match(await sdpo(['calibrate', config, ...args]), { status: 2, stdout: '', stderr: message }, args.join(' '));
  }
});

t.test('a signal stops it after the batch under way', async (t) => {
  const folder = t.testdir();
  writeFileSync(
    join(folder, 'policy.mjs'),
    `import make from ${JSON.stringify(new URL('../helpers/linear-policy.js', import.meta.url).href)};
     export default (options, context) => {
       const policy = make(options, context);
       // Not waiting for anything: the trainer gives events their turn.
       policy.reference = (inputs) => { process.stderr.write('batch\\n'); return policy.predict(inputs); };
       return policy;
     };`,
  );
  const config = writeConfig(folder, { policy: { module: join(folder, 'policy.mjs') } });
  for (const signal of ['SIGINT', 'SIGHUP'] as const) {
    const run = start(['calibrate', config, '--batches', '1000000']);
    await run.printed('batch\nbatch\n');
    run.process.kill(signal);
    const { status, stdout, stderr } = await run.ended;
    t.equal(status, 130, signal);
    t.equal(stdout, '');
    t.match(stderr, /^Stopping after this batch/m);
  }
});
