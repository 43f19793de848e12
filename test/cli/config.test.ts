/** Configs of the command line: the schema agrees with the library, and every mistake is named with its path. */

import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Ajv } from 'ajv';
import t, { type Test } from 'tap';
import { loadConfig } from '../../lib/cli/config.js';
import { makeLoss, makeSchedule } from '../../lib/cli/train-setup.js';
import { LINKS, NoiseSchedule, OBJECTIVES, PAIR_WEIGHTS, PreferenceLoss, WEIGHT_RATIOS } from '../../lib/index.js';
import { USED_BY } from '../../lib/loss/options.js';
import { NON_FINITE_POLICIES, SCOPES } from '../../lib/native/names.js';
import { SAMPLER_OPTIONS } from '../../lib/schedule/build.js';
import { LADDERS } from '../../lib/schedule/ladder.js';
import { PREDICTION_TYPES, VARIANCES } from '../../lib/schedule/levels.js';
import { PRESET_NAMES } from '../../lib/schedule/presets.js';
import { STEP_ORDERS, TIMESTEP_DISTRIBUTIONS } from '../../lib/schedule/sampling.js';
import { SHIFT_OPTIONS } from '../../lib/schedule/shift.js';
import { MAX_SEED, SAMPLINGS, TIMESTEP_SAMPLING } from '../../lib/trainer/draws.js';
import { DECAYS } from '../../lib/trainer/learning-rate.js';
import { NOISES, ON_NON_FINITE, resolveTrainerOptions } from '../../lib/trainer/options.js';
import { VALIDATION_CRITERIA } from '../../lib/trainer/validation-options.js';
import { sdpo, smallConfig, writeConfig } from '../helpers/cli-runs.js';

interface Schema {
  properties: Record<string, Schema>;
  required: string[];
  enum?: unknown[];
  anyOf?: Schema[];
  default?: unknown;
  maximum?: number;
}

const schemaFile = fileURLToPath(new URL('../../schema/train.schema.json', import.meta.url));
const schema = JSON.parse(readFileSync(schemaFile, 'utf8')) as Schema;

/** What loading a config says; undefined where it is right. */
function problem(t: Test, changes: Record<string, unknown>, set: string[] = []): string {
  const folder = t.testdir();
  try {
    const loaded = loadConfig(writeConfig(folder, changes), { set });
    makeLoss(loaded, makeSchedule(loaded));
    return '';
  } catch (error) {
    t.equal((error as { code?: string }).code, 'ERR_SDPO_CONFIG', (error as Error).message);
    return (error as Error).message;
  }
}

t.test('the schema of the loss has the names, values and defaults of the library', async (t) => {
  const { properties, required } = schema.properties.loss;
  const full = new PreferenceLoss({ objective: 'sdpo', beta: 1 }).options;
  const names = Object.keys(full).filter((name) => name !== 'schedule');
  t.same(Object.keys(properties).sort(), names.sort());
  t.same(required, ['objective', 'beta']);
  t.same(properties.objective.enum, OBJECTIVES);
  t.same(properties.link.enum, LINKS);
  t.same(properties.pairWeight.enum, PAIR_WEIGHTS);
  t.same(properties.weightRatio.enum, WEIGHT_RATIOS);
  t.same(properties.sftScope.enum, SCOPES);
  t.same(properties.klScope.enum, SCOPES);
  t.same(properties.nonFinite.enum, NON_FINITE_POLICIES);
  const defaults = Object.entries(properties).flatMap(([name, { default: value }]) =>
    value === undefined ? [] : [[name, value]],
  );
  t.same(new PreferenceLoss({ objective: 'sdpo', beta: 1, ...Object.fromEntries(defaults) }).options, full);
  // Those without a default in the schema are the ones whose default is not a value.
  const without = names.filter((name) => properties[name].default === undefined);
  const off = ['logRatioClip', 'safeguard', 'threads', 'timestepWindow'];
  t.same(without.sort(), ['beta', 'mapoSteps', 'objective', 'pairWeight', ...off].sort());
  for (const name of Object.keys(USED_BY)) t.ok(properties[name], name);
});

t.test('the other parts of the schema agree with the library', async (t) => {
  const { properties } = schema;
  const { training } = properties;
  t.same(properties.schedule.properties.preset.enum, PRESET_NAMES);
  t.same(properties.schedule.properties.predictionType.enum, PREDICTION_TYPES);
  t.equal(properties.schedule.properties.eta.default, NoiseSchedule.preset('sd15').eta);
  t.equal(properties.seed.maximum, MAX_SEED);
  t.same(training.properties.noise.enum, NOISES);
  t.same(properties.validation.properties.best.enum, VALIDATION_CRITERIA);
  t.same(training.properties.sampling.enum, SAMPLINGS);
  t.same(training.properties.onNonFinite.enum, ON_NON_FINITE);
  t.same(training.properties.learningRate.properties.decay.enum, DECAYS);
  t.same(training.properties.timesteps.properties.distribution.enum, TIMESTEP_DISTRIBUTIONS);
  t.same(training.properties.timesteps.properties.order.enum, STEP_ORDERS);
  t.same(Object.keys(training.properties.timesteps.properties), TIMESTEP_SAMPLING);
  const own = ['preset', 'config', 'predictionType', 'ignore'];
  t.same(Object.keys(properties.schedule.properties).sort(), [...SAMPLER_OPTIONS, ...SHIFT_OPTIONS, ...own].sort());
  t.same(properties.schedule.properties.ladder.anyOf?.[0].enum, LADDERS);
  t.same(properties.schedule.properties.variance.enum, VARIANCES);

  const policy = Object.fromEntries(
    ['linearize', 'predict', 'reference', 'step', 'discard', 'state', 'load'].map((name) => [name, () => {}]),
  );
  const loss = new PreferenceLoss({ objective: 'sdpo', beta: 1, schedule: NoiseSchedule.preset('sd15') });
  const data = { kind: 'indexed', length: 1, shape: [1], fingerprint: '', get: () => ({}) };
  const options = resolveTrainerOptions({ policy, loss, data, seed: 0, learningRate: 1 } as never);
  for (const [name, { default: value }] of Object.entries(training.properties)) {
    if (value !== undefined && name !== 'timesteps') t.same(options[name as keyof typeof options], value, name);
  }
});

t.test('the schema is one, and says what every field is for', async (t) => {
  const ajv = new Ajv({ discriminator: true, strictTypes: false });
  const check = ajv.compile(schema);
  t.ok(check({ out: 'run', ...smallConfig() }), JSON.stringify(check.errors));
  const example = new URL('../../examples/digits/train.json', import.meta.url);
  t.ok(check(JSON.parse(readFileSync(example, 'utf8'))), JSON.stringify(check.errors));
});

t.test('a config is completed', async (t) => {
  const folder = t.testdir();
  const { config, base, out } = loadConfig(writeConfig(folder), {
    set: ['loss.beta=30', 'training.learningRate.decay=linear', 'loss.klWeight=0.5', 'data.options.count=16'],
  });
  t.match(config, {
    loss: { objective: 'sdpo', beta: 30, klWeight: 0.5, clipRange: 0.1, maskThreshold: 0.9 },
    training: { timestepsPerPair: 1, learningRate: { decay: 'linear', warmupSteps: 0 }, maxGradientNorm: 1 },
    data: { options: { count: 16 } },
    reference: { kind: 'policy' },
    checkpoints: { every: 5, keep: 3 },
    seed: 0,
  });
  t.notOk('pairWeight' in config.loss, 'an option of other objectives is left out');
  t.equal(out, join(folder, 'run'));
  t.equal(base, fileURLToPath(new URL('../helpers', import.meta.url)).replace(/\/$/, ''));
  t.equal(loadConfig(writeConfig(folder), { out: 'elsewhere' }).out, join(process.cwd(), 'elsewhere'));
});

t.test('a schedule from a file', async (t) => {
  const folder = t.testdir({ 'scheduler_config.json': '{"_class_name":"DDIMScheduler","beta_schedule":"linear"}' });
  const config = join(folder, 'scheduler_config.json');
  const loaded = loadConfig(writeConfig(folder, { schedule: { config, predictionType: 'v_prediction' } }));
  t.match(makeSchedule(loaded).toJSON(), { predictionType: 'v_prediction', config: { _class_name: 'DDIMScheduler' } });
  // Not in t.testdir(), which `problem` makes anew.
  const python = mkdtempSync(join(tmpdir(), 'sdpo-config-'));
  t.teardown(() => rmSync(python, { recursive: true }));
  const files = {
    'scheduler_config.json': '\uFEFF{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity}',
    pointer: 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n',
    dynamic: '{"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": true}',
  };
  for (const [name, text] of Object.entries(files)) writeFileSync(join(python, name), text);
  const ofPython = { config: join(python, 'scheduler_config.json'), ladder: 'uniform' };
  t.match(makeSchedule(loadConfig(writeConfig(folder, { schedule: ofPython }))).toJSON(), { ladder: 'uniform' });
  t.match(
    problem(t, { schedule: { config: join(python, 'pointer') } }),
    /pointer to be readable JSON, .*a git LFS pointer/,
  );
  const dynamic = { config: join(python, 'dynamic'), imageSeqLen: 4096 };
  t.match(makeSchedule(loadConfig(writeConfig(folder, { schedule: dynamic }))).toJSON(), { mu: 1.15 });
  t.match(
    problem(t, { schedule: { config: join(python, 'dynamic') } }),
    /^Expected schedule\.config\.use_dynamic_shifting .*schedule\.mu, schedule\.imageSeqLen/,
  );
  t.match(problem(t, { schedule: { config: 'nowhere.json' } }), /nowhere\.json to be a file, received no such file/);
  t.match(problem(t, { schedule: { config: { _class_name: 'MyScheduler' } } }), /^Expected schedule.*MyScheduler/);
  t.match(
    problem(t, { schedule: { preset: 'sd15', inferenceSteps: 2000 } }),
    /^Expected schedule\.inferenceSteps to be/,
  );
});

t.test('mistakes are named with path, expectation and what came', async (t) => {
  const expectations: [string[], string][] = [
    [['loss.bta=3'], 'Expected loss to have only known fields, received "bta" (did you mean "beta"?)'],
    [
      ['loss.mask_threshold=0'],
      'Expected loss to have only known fields, received "mask_threshold" (did you mean "maskThreshold"?)',
    ],
    [['trainign={}'], 'Expected the config to have only known fields, received "trainign" (did you mean "training"?)'],
    [['checkpoints.zzz=1'], 'Expected checkpoints to have only the fields every, keep, received "zzz"'],
    [['loss.beta=1O'], 'Expected loss.beta to be a number > 0, received "1O"'],
    [
      ['loss.clipRange=[1]'],
      'Expected loss.clipRange to be a number >= 0 or an array of length 2, each entry a number >= 0, received [1]',
    ],
    [
      ['training.learningRate.decay=cosin'],
      'Expected training.learningRate.decay to be one of "constant", "linear", "cosine", received "cosin" (did you mean "cosine"?)',
    ],
    [['training.learningRate={}'], 'Expected training.learningRate.peak to be a number > 0, received nothing'],
    [['training.steps=1.5'], 'Expected training.steps to be an integer >= 1, received 1.5'],
    [['training.maxGradientNorm=0'], 'Expected training.maxGradientNorm to be a number > 0 or null, received 0'],
    [['loss.weightGradient="yes"'], 'Expected loss.weightGradient to be true or false, received "yes"'],
    [
      ['data.format=safetensor'],
      'Expected data.format to be one of "safetensors", "parquet", "module", received "safetensor" (did you mean "safetensors"?)',
    ],
    [
      ['data={"format":"safetensors","files":["a",3]}'],
      'Expected data.files[1] to be a string that is not empty, received 3',
    ],
    [
      ['data={"format":"parquet","files":[]}'],
      'Expected data.shape to be an array that is not empty, each entry an integer >= 1, received nothing',
    ],
    [['reference.kind=cache'], 'Expected reference.folder to be a string that is not empty, received nothing'],
    [
      ['validation={"every":1,"data":{"format":"parquet","files":["a"],"shape":[0]}}'],
      'Expected validation.data.shape[0] to be an integer >= 1, received 0',
    ],
    [
      ['validation={"data":{"format":"csv"}}'],
      'Expected validation.data.format to be one of "safetensors", "parquet", "module", received "csv"',
    ],
    [['validation={"every":2}'], 'Expected validation.data to be an object, received nothing'],
    [
      ['reference={"kind":"cache","folder":"c","every":3}'],
      'Expected reference to have only the fields kind, folder, content, received "every"',
    ],
    [['reference={"kind":"moving"}'], 'Expected reference.every to be an integer >= 1, received nothing'],
    [
      ['reference={"kind":"moving","every":1}', 'loss={"objective":"mapo","beta":1}'],
      'Expected reference.kind to be policy, since objective \'mapo\' has no reference, received "moving"',
    ],
    [
      ['beta.target=1', 'loss={"objective":"mapo","beta":1}'],
      "Expected beta to be absent, since objective 'mapo' reads no betaScale, received",
    ],
    [['beta={"target":1,"range":[2,1]}'], 'Expected beta.range to be [low, high] with low <= high, received [2,1]'],
    [['beta={"target":1,"window":8,"warmup":9}'], 'Expected beta.warmup to be at most beta.window (8), received 9'],
    [['schedule={}'], 'Expected schedule to have exactly one of preset and config, received none'],
    [['schedule.config={}'], 'Expected schedule to have exactly one of preset and config, received both'],
    [['schedule.ignore=["x"]'], 'Expected schedule.ignore to be absent with a preset, received ["x"]'],
    [['threshold.keep=2'], 'Expected threshold.keep to be a number in (0, 1), received 2'],
    [['seed=-1'], `Expected seed to be an integer in [0, ${MAX_SEED}], received -1`],
    [
      ['training.timesteps={"distribution":"cosmap","modeScale":1}'],
      "Expected training.timesteps.modeScale to be absent with distribution 'cosmap', received 1",
    ],
    [
      ['training.timesteps.order=random'],
      'Expected training.timesteps.order to be absent without steps, received "random"',
    ],
    [
      ['training.timesteps={"steps":[1],"range":[0,5]}'],
      'Expected training.timesteps.range to be absent with steps, received [0,5]',
    ],
    [['training.accumulate=3'], 'Expected training.accumulate to be a divisor of pairsPerStep (8), received 3'],
    [
      ['training.learningRate.final=0'],
      'Expected training.learningRate.final to be absent with the constant decay, received 0',
    ],
    [
      ['training.learningRate.warmupSteps=12'],
      'Expected training.learningRate.warmupSteps to be less than training.steps (12), received 12',
    ],
    [
      ['training.learningRate.decay=linear', 'training.learningRate.final=1'],
      'Expected training.learningRate.final to be at most the peak (0.001), received 1',
    ],
    [['training.maxSkipped=3'], "Expected training.maxSkipped to be absent with onNonFinite 'stop', received 3"],
    [
      ['training.timesteps.mean=1'],
      "Expected training.timesteps.mean to be absent with distribution 'uniform', received 1",
    ],
    [
      ['training.timesteps.range=[9,1]'],
      'Expected training.timesteps.range to be [low, high] with low <= high, received [9,1]',
    ],
    [
      ['loss.objective=diffusion-dpo', 'loss.weightSharpness=1', 'threshold.keep=0.5'],
      "Expected threshold to be absent, since objective 'diffusion-dpo' has no mask",
    ],
    [
      ['loss.objective=diffusion-dpo'],
      "Expected loss.weightSharpness to be left at its default, since objective 'diffusion-dpo' does not use it, received 4",
    ],
    [['loss.clipRange=[2,1]'], 'Expected loss.clipRange to be [low, high] with low <= high'],
    [['__proto__.x=1'], 'Expected the config to have only the fields'],
    [['loss'], 'Expected --set to be followed by <path>=<value>, such as loss.beta=30, received "loss"'],
    [['loss..beta=1'], 'Expected --set to be followed by <path>=<value>'],
    [['out.x=1'], 'Expected out of --set out.x to be an object, received'],
    [
      ['data.files=[]', 'data.files.1=x'],
      'Expected the part "1" of --set data.files.1 to be an index below 0, received none',
    ],
  ];
  for (const [set, expected] of expectations) {
    const message = problem(t, {}, set);
    t.ok(message.includes(expected), `${set.join(' ')}`, { message, expected });
  }
});

t.test('all mistakes are listed at once', async (t) => {
  const message = problem(t, {}, ['loss.bta=3', 'seed=x', 'training.steps=0']);
  t.equal(message.split('\n').length, 4);
});

t.test('what is no config', async (t) => {
  const folder = t.testdir({
    'a.json': '{"loss":,}',
    'b.json': '[]',
    'twice.json': '{"loss": {"beta": 1, "be\\u0074a": 2}}',
    'deep.json': `${'['.repeat(50_000)}${']'.repeat(50_000)}`,
    folder: {},
  });
  const message = (name: string) => {
    try {
      return String(loadConfig(join(folder, name)));
    } catch (error) {
      return (error as Error).message;
    }
  };
  t.match(message('a.json'), /a\.json to be readable JSON, received/);
  t.match(message('b.json'), /b\.json to be a JSON object, received \[\]/);
  t.match(message('twice.json'), /twice\.json to be JSON that names everything once.*, received "beta" twice/);
  t.match(message('deep.json'), /deep\.json to be JSON .* nested at most 256 deep, received more/);
  t.match(message('folder'), /folder to be a file, received a folder/);
  t.match(message('none.json'), /none\.json to be a file, received no such file/);
});

t.test('the command line ends with 2 and says why, before anything is written', async (t) => {
  const folder = t.testdir();
  const config = writeConfig(folder);
  const bad = await sdpo(['train', config, '--set', 'loss.bta=3']);
  t.match(bad, { status: 2, stdout: '', stderr: /config\.json is not a valid config:\n {2}Expected loss .*"beta"/ });
  const json = await sdpo(['train', config, '--set', 'loss.bta=3', '--json']);
  t.equal(json.status, 2);
  t.match(JSON.parse(json.stdout), { error: { code: 'ERR_SDPO_CONFIG', message: /bta/ } });
  for (const args of [['trian'], ['train'], ['train', config, '--quite'], ['train', config, '--log-every', '0']]) {
    const { status, stderr, stdout } = await sdpo(args);
    t.equal(status, 2, args.join(' '));
    t.equal(stdout, '');
    t.match(stderr, /error: /);
  }
  t.throws(() => readFileSync(join(folder, 'run')), { code: 'ENOENT' });
});

t.test('modules that do not fit', async (t) => {
  const folder = t.testdir({ 'policy.ts': 'export default (x: number) => x;', 'broken.js': 'import "./gone.js";' });
  const config = writeConfig(folder);
  const fails = async (set: string, status: number, message: RegExp) => {
    const ended = await sdpo(['train', config, '--set', set, '--quiet']);
    t.match(ended, { status, stdout: '', stderr: message }, set);
  };
  await fails(
    'policy.module=nowhere.js',
    2,
    /Expected policy\.module to be a module, received no such file: .*nowhere/,
  );
  await fails('policy.export=defualt', 2, /to export a function defualt, received .*did you mean "default"\?/);
  await fails('policy.export=broken', 2, /Expected policy\.linearize to be a function/);
  await fails('data.export=list', 2, /Expected data\.module to give a PairDataset or a PairStream, received Array/);
  await fails('evaluation={"module":"linear-data.js","every":1}', 2, /to give a function, received Object/);
  await fails('policy.export=unsaved', 2, /Expected policy\.weights to be a function, received none/);
  await fails('policy.export=failing', 1, /Error: the weights are not here\n.* at /s);
  await fails(`policy.module=${folder}/broken.js`, 1, /Cannot find module .*gone\.js/);
  await fails('evaluation={"module":"linear-evaluation.js","every":1,"export":"x"}', 2, /evaluation\.module to export/);
});

t.test('the config of the run is complete and runs again', async (t) => {
  const folder = t.testdir();
  mkdirSync(join(folder, 'deep'));
  const config = writeConfig(join(folder, 'deep'), { $schema: './train.schema.json', base: undefined, out: '../run' });
  const text = JSON.parse(readFileSync(config, 'utf8'));
  const root = fileURLToPath(new URL('../helpers', import.meta.url));
  text.policy.module = join(root, 'linear-policy.js');
  writeFileSync(
    join(folder, 'deep', 'data.js'),
    `export { default } from ${JSON.stringify(join(root, 'linear-data.js'))};`,
  );
  writeFileSync(join(folder, 'deep', 'package.json'), '{"type":"module"}');
  text.data.module = 'data.js';
  writeFileSync(config, JSON.stringify(text));
  t.match(await sdpo(['train', config, '--quiet', '--set', 'loss.beta=20']), { status: 0, stdout: '', stderr: '' });
  const record = JSON.parse(readFileSync(join(folder, 'run', 'config.json'), 'utf8'));
  t.match(record, { base: '../deep', out: '../run', data: { module: 'data.js' }, loss: { beta: 20, link: 'sigmoid' } });
  const again = await sdpo(['train', join(folder, 'run', 'config.json'), '--out', join(folder, 'again'), '--quiet']);
  t.match(again, { status: 0, stderr: '' });
  const weights = (name: string) => readFileSync(join(folder, name, 'weights.safetensors'));
  t.ok(weights('again').equals(weights('run')), 'the same weights');
});

t.test('--set with null takes out what may be absent', async (t) => {
  const folder = t.testdir();
  const evaluation = { module: 'linear-evaluation.js', every: 2 };
  const training = { steps: 9, learningRate: { peak: 1 }, ema: { decay: 0.9 }, bins: 4, maxGradientNorm: 2 };
  const file = writeConfig(folder, { evaluation, training, threshold: { keep: 0.5 } });
  const set = (...names: string[]) => loadConfig(file, { set: names.map((name) => `${name}=null`) }).config;
  const changed = set('evaluation', 'training.ema', 'training.bins', 'threshold', 'loss.weightSharpness', '$schema');
  t.notOk('evaluation' in changed || 'ema' in changed.training || 'threshold' in changed, 'optional parts are gone');
  t.match(changed, { training: { bins: 10 }, loss: { weightSharpness: 1 } }, 'others have their defaults');
  t.equal(set('training.maxGradientNorm').training.maxGradientNorm, null, 'where null is a value it is one');
  t.match(set('evaluation.options', 'threshold.window', 'policy.options'), { evaluation, threshold: { window: 512 } });
  t.match(set('reference.content'), { reference: { kind: 'policy' } }, 'what is not there need not be taken out');
  const refused: [string, RegExp][] = [
    ['policy', /Expected policy to be an object, received null/],
    ['loss.beta', /Expected loss\.beta to be a number > 0, received null/],
    ['evaluaton', /received "evaluaton" \(did you mean "evaluation"\?\)/],
    ['policy.options.x.y', /^$/],
  ];
  for (const [name, message] of refused) {
    if (name === 'policy.options.x.y') {
      t.match(set(name).policy, { options: { x: { y: null } } }, 'options of a module are its own');
    } else {
      t.throws(() => set(name), { code: 'ERR_SDPO_CONFIG', message });
    }
  }
});

t.test('whatever stands in the place of a part, the error is one of the config', (t) => {
  const module = { module: 'a.js', export: 'x', options: {} };
  const wholes = [
    {
      ...smallConfig({
        evaluation: { ...module, every: 2 },
        threshold: { keep: 0.5 },
        reference: { kind: 'cache', folder: 'x' },
      }),
      ...{
        seed: 1,
        out: 'run',
        fromCheckpoint: 'a/checkpoint-1',
        data: { format: 'parquet', files: ['a'], shape: [2], columns: { id: 'x' } },
      },
    },
    {
      ...smallConfig({ data: { format: 'safetensors', files: ['a'], names: { chosen: 'a' } } }),
      out: 'run',
      schedule: { config: { _class_name: 'DDIMScheduler' } },
    },
    {
      ...smallConfig({
        training: {
          ema: { decay: 0.9 },
          timesteps: { range: [0, 9] },
          learningRate: { peak: 1, decay: 'linear', final: 0 },
        },
      }),
      ...{ out: 'run', schedule: { config: { _class_name: 'FlowMatchEulerDiscreteScheduler', shift: 3 } } },
    },
  ];
  const values = [null, 1, -1, 'x', '', true, [], [null], {}, { a: 1 }, [[[]]], 1.5];
  const pathsOf = (value: unknown, path: string[] = []): string[][] =>
    typeof value === 'object' && value !== null
      ? [path, ...Object.entries(value).flatMap(([name, part]) => pathsOf(part, [...path, name]))]
      : [path];
  const file = join(t.testdir(), 'config.json');
  let tried = 0;
  for (const whole of wholes) {
    for (const path of pathsOf(whole)) {
      for (const value of values) {
        const copy = { root: structuredClone(whole) as unknown };
        const owner = ['root', ...path]
          .slice(0, -1)
          .reduce<Record<string, unknown>>((at, name) => at[name] as never, copy);
        owner[path.at(-1) ?? 'root'] = value;
        writeFileSync(file, JSON.stringify(copy.root));
        tried++;
        try {
          const loaded = loadConfig(file);
          makeLoss(loaded, makeSchedule(loaded));
        } catch (error) {
          if ((error as { code?: string }).code === 'ERR_SDPO_CONFIG') continue;
          t.fail(`${path.join('.')} ${JSON.stringify(value)}: ${(error as Error).stack}`);
        }
      }
    }
  }
  t.ok(tried > 1000, `${tried} configs`);
  writeFileSync(file, JSON.stringify({ ...wholes[0], schedule: null }));
  t.throws(() => loadConfig(file), { message: /^ {2}Expected schedule to be an object, received null$/m });
  t.end();
});
