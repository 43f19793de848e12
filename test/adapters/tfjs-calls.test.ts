/** Calls of the TensorFlow.js adapter: what they refuse, what they need around them, and its example. */

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import * as tf from '@tensorflow/tfjs';
import t from 'tap';
import { preferenceLoss, type TfjsBatch } from '../../lib/adapters/tfjs.js';
import { NoiseSchedule, PreferenceLoss } from '../../lib/index.js';
import { documentedProgram, makeProblem, outputSize, rows, withoutPeer } from '../helpers/adapters.js';
import { runProgram } from '../helpers/child.js';
import { batchOf, variablesOf } from '../helpers/tfjs-problem.js';

t.test('errors name the argument', (t) => {
  const problem = makeProblem(9);
  const variables = variablesOf(problem);
  const core = new PreferenceLoss({ objective: 'sdpo', beta: 2, schedule: NoiseSchedule.preset('sd15') });
  const loss = preferenceLoss(core);
  const refused = (change: (batch: TfjsBatch) => unknown, message: RegExp, code: string, call?: object) =>
    t.throws(() => loss(change(batchOf(problem, variables)) as TfjsBatch, call), { message, code });
  const chosen = (field: string, value: (branch: TfjsBatch['chosen']) => unknown) => (batch: TfjsBatch) => ({
    ...batch,
    chosen: { ...batch.chosen, [field]: value(batch.chosen) },
  });

  refused(() => null, /^Expected batch to be an object, received null/, 'ERR_SDPO_INVALID_ARG_TYPE');
  refused((b) => ({ ...b, chosen: undefined }), /Expected batch\.chosen to be an object/, 'ERR_SDPO_INVALID_ARG_TYPE');
  refused(
    chosen('policy', () => problem.chosen.target),
    /Expected batch\.chosen\.policy to be a tensor of TensorFlow\.js, received Float32Array of length 120/,
    'ERR_SDPO_INVALID_ARG_TYPE',
  );
  refused(
    chosen('policy', () => tf.scalar(1)),
    /Expected batch\.chosen\.policy to be of shape \[rows, \.\.\.\], received "a scalar"/,
    'ERR_SDPO_INVALID_LENGTH',
  );
  refused(
    chosen('policy', ({ policy }) => policy.cast('int32')),
    /Expected batch\.chosen\.policy to be of dtype float32, received "int32"/,
    'ERR_SDPO_INVALID_ARG_TYPE',
  );
  // As many elements in other axes: TensorFlow.js would broadcast it.
  refused(
    chosen('reference', ({ policy }) => policy.reshape([rows, outputSize])),
    /Expected batch\.chosen\.reference to be of shape \[5, 2, 3, 2, 2\] as batch\.chosen\.policy, received "shape \[5, 24\]"/,
    'ERR_SDPO_INVALID_LENGTH',
  );
  refused(
    chosen('target', () => new Float32Array(7)),
    /Expected batch\.chosen\.target/,
    'ERR_SDPO_INVALID_LENGTH',
  );
  refused(
    (b) => ({ ...b, timesteps: [1, 2] }),
    /Expected batch\.timesteps to be of length 5/,
    'ERR_SDPO_INVALID_LENGTH',
  );
  refused((b) => ({ ...b, row_weights: [1] }), /did you mean 'rowWeights'/, 'ERR_SDPO_UNKNOWN_OPTION');
  refused(
    chosen('model', () => 1),
    /Expected batch\.chosen to have only the fields/,
    'ERR_SDPO_UNKNOWN_OPTION',
  );
  const unknown = /Expected call to have only the fields denominator, maskThreshold, onResult/;
  refused((b) => b, unknown, 'ERR_SDPO_UNKNOWN_OPTION', { gradientScale: 2 });
  refused((b) => b, /Expected call\.onResult to be a function/, 'ERR_SDPO_INVALID_ARG_TYPE', { onResult: 1 });
  t.throws(() => loss.given(batchOf(problem, variables)), { message: /Expected batch\.chosen\.policy to be left out/ });
  t.throws(() => preferenceLoss({} as never), { message: /Expected loss to be a PreferenceLoss/ });
  tf.dispose(variables);
  t.end();
});

t.test('the examples of the documentation run', (t) => {
  const { status, stdout, stderr } = runProgram(documentedProgram('TensorFlow.js'));
  t.equal(status, 0, stderr);
  t.match(stdout, /^loss 0\.\d+, implicit accuracy (0\.[5-9]\d*|1)$/m);
  t.match(stdout, /^\d+\.\d+ \[ 8, 16 \]$/m);
  t.end();
});

t.test('the example trains the digits model', (t) => {
  const run = fileURLToPath(new URL('../../examples/tfjs/train.ts', import.meta.url));
  const { status, stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', run, '--steps', '5'], {
    encoding: 'utf8',
    cwd: fileURLToPath(new URL('../..', import.meta.url)),
  });
  t.equal(status, 0, stderr);
  const accuracy = /^implicit accuracy +50\.0 % +(\d+\.\d) %$/m.exec(stdout)?.[1];
  t.ok(Number(accuracy) > 50, stdout);
  t.end();
});

t.test('without TensorFlow.js the error says what to install', (t) => {
  const { status, stderr } = withoutPeer(t, 'tfjs');
  t.equal(status, 1);
  t.match(
    stderr,
    /SdpoError: Expected @tensorflow\/tfjs to be installed, since sdpo\/tfjs .* npm install @tensorflow\/tfjs/,
  );
  t.match(stderr, /code: 'ERR_SDPO_NO_PEER'/);
  t.end();
});
