/** Declarations of studies: what is refused and how, and which runs a right one lays out. */

import { readFileSync } from 'node:fs';
import t from 'tap';
import { planCells, readStudy, type StudyConfig } from '../lib/index.js';
import { extraSettings, fingerprint, plan, STUDY_SCHEMA, selectCells } from '../lib/plan.js';
import { declaration, declare, RUNS } from './declaration.js';

const [headline, other] = declaration.groups;

t.test('a right declaration is read as it is, with its defaults', async (t) => {
  const folder = t.testdir({});
  t.same(readStudy(declare(folder)), declaration);
  const { options: _, ...rest } = declaration;
  t.same(readStudy(declare(folder, { $schema: 'study.schema.json', ...rest })).options, {});
});

t.test('a wrong declaration is refused with its path', async (t) => {
  const folder = t.testdir({});
  const refused = (change: object, message: RegExp) => {
    const file = declare(folder, { ...declaration, ...change });
    t.throws(() => readStudy(file), { code: 'ERR_SDPO_INVALID_ARG_VALUE', message });
    t.throws(() => readStudy(file), { message: /study\.json: Expected / });
  };
  const group = (change: object) => ({ groups: [headline, { ...other, ...change }] });
  refused({ title: 3 }, /Expected title to be string, received 3/);
  refused({ groups: [] }, /Expected groups to be .*fewer than 1 items/);
  refused({ titel: 'x' }, /Expected the study not to have the field "titel"/);
  refused({ decidingMetric: undefined }, /Expected the study to have the field "decidingMetric"/);
  refused(group({ betas: [1, 0] }), /Expected groups\[1\]\.betas\[1\] to be > 0, received 0/);
  refused(group({ seeds: [3, 3] }), /Expected groups\[1\]\.seeds to be .*duplicate items/);
  refused(group({ seeds: [0.5] }), /Expected groups\[1\]\.seeds\[0\] to be integer, received 0\.5/);
  refused(group({ sources: ['a/b'] }), /Expected groups\[1\]\.sources\[0\] to be .*pattern/);
  refused(
    group({ arms: ['dpo', 'spdo'] }),
    /groups\[1\]\.arms\[1\] to be a declared arm \(dpo, sdpo\), received "spdo"/,
  );
  refused(group({ name: 'headline' }), /groups\[1\]\.name to be unique/);
  refused(group({ settings: { base: [1] } }), /Expected groups\[1\]\.settings\.base to be string,number,boolean/);
  refused(group({ settings: { 'a-b': 1 } }), /Expected the name "a-b" in groups\[1\]\.settings/);
  const question = (change: object) => ({ questions: [{ ...declaration.questions[0], ...change }] });
  refused(question({ arm: 'x' }), /questions\[0\]\.arm to be a declared arm/);
  refused(question({ baseline: 'x' }), /questions\[0\]\.baseline to be a declared arm/);
  refused(question({ sources: ['x'] }), /questions\[0\]\.sources\[0\] to be a source of a group \(near, far\)/);
  const arm = (loss: object) => ({ arms: { ...declaration.arms, sdpo: { title: 'SDPO', loss } } });
  refused(arm({}), /Expected arms\.sdpo\.loss to have the field "objective"/);
  refused(arm({ objective: 'sdpo', beta: 3 }), /Expected arms\.sdpo\.loss\.beta to be absent/);
  refused(arm({ objective: 'spdo' }), /Expected arms\.sdpo\.loss\.objective to be one of/);
  refused(arm({ objective: 'sdpo', maskThreshold: 2 }), /arms\.sdpo\.loss\.maskThreshold to be a number in \[0, 1\]/);
  refused(arm({ objective: 'sdpo', maskTreshold: 0.5 }), /arms\.sdpo\.loss to have only the fields .*"maskTreshold"/);
  refused(arm({ objective: 'diffusion-dpo', maskThreshold: 0.5 }), /objective 'diffusion-dpo' does not use it/);
  t.throws(() => readStudy(declare(folder, '{')), { message: /Expected the file to be JSON/ });
  t.throws(() => readStudy(`${folder}/none.json`), {
    code: 'ERR_SDPO_INVALID_ARG_VALUE',
    message: /none.json to be a file, received no such file/,
  });
  const both = { ...declaration, title: '', ...group({ betas: [-1] }) };
  t.match(messageOf(() => readStudy(declare(folder, both))).split('\n').length, 2, 'all problems are told at once');
});

function messageOf(action: () => unknown): string {
  try {
    action();
  } catch (error) {
    return (error as Error).message;
  }
  return '';
}

t.test('every run once, seed by seed, the first group first', async (t) => {
  const cells = planCells(declaration);
  t.equal(cells.length, RUNS);
  t.same(
    cells.map(({ id }) => id),
    [
      ...['near_beta1_dpo_seed0', 'near_beta1_sdpo_seed0', 'near_beta10_dpo_seed0', 'near_beta10_sdpo_seed0'],
      ...['far_beta10_dpo_seed0', 'far_beta10_sdpo_seed0'],
      ...['near_beta1_dpo_seed1', 'near_beta1_sdpo_seed1', 'near_beta10_dpo_seed1', 'near_beta10_sdpo_seed1'],
    ],
  );
  t.same(cells[1], {
    id: 'near_beta1_sdpo_seed0',
    arm: 'sdpo',
    source: 'near',
    beta: 1,
    seed: 0,
    loss: declaration.arms.sdpo.loss,
    settings: {},
  });
  t.same(plan(declaration).find(({ cell }) => cell.id === 'near_beta10_dpo_seed0')?.groups, ['headline', 'other']);
});

t.test('settings of a group make another cell unless the arm has them already', async (t) => {
  const arms = { ...declaration.arms, slow: { ...declaration.arms.dpo, settings: { rate: 0.3 } } };
  const settings = { rate: 0.3, base: 'a_b' };
  const groups = [{ ...headline, arms: ['dpo', 'slow'], betas: [0.1], seeds: [7], settings }];
  const config: StudyConfig = { ...declaration, arms, groups };
  const [dpo, slow] = planCells(config);
  t.match(dpo.id, /^near_beta0\.1_dpo_seed7_base-a-b-[0-9a-f]{8}_rate-0\.3$/);
  t.match(slow.id, /^near_beta0\.1_slow_seed7_base-a-b-[0-9a-f]{8}$/);
  t.same(slow.settings, settings);
  t.same(extraSettings(config, slow), { base: 'a_b' });
  t.same(extraSettings(config, dpo), settings);
});

t.test('runs are chosen by parts of their id and by fields', async (t) => {
  const planned = plan(declaration);
  const count = (...only: string[]) => selectCells(planned, only).length;
  t.equal(count('far'), 2);
  t.equal(count('group=headline'), 8);
  t.equal(count('group=other'), 4);
  t.equal(count('beta=10', 'seed=0', 'arm=dpo'), 2);
  t.equal(count('beta=1,10'), RUNS);
  t.throws(() => count('beta=2'), { code: 'ERR_SDPO_INVALID_ARG_VALUE', message: /some run of the study satisfies/ });
  t.throws(() => count('rate=2'), { message: /one of group, source, beta, arm, seed/ });
});

t.test('the fingerprint is of the content, not of the order of fields', async (t) => {
  t.equal(fingerprint({ a: 1, b: { c: [1, 2], d: null } }), fingerprint({ b: { d: null, c: [1, 2] }, a: 1 }));
  t.not(fingerprint({ a: [1, 2] }), fingerprint({ a: [2, 1] }));
});

t.test('the schema names every field of the declaration', async (t) => {
  const schema = JSON.parse(readFileSync(STUDY_SCHEMA, 'utf8'));
  for (const name of Object.keys(declaration)) t.ok(name in schema.properties, name);
});
