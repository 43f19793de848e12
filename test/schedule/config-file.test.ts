/** Scheduler configs on disk: JSON as Python writes it, and files that are none. */

import { join } from 'node:path';
import t from 'tap';
import { NoiseSchedule, parseSchedulerConfig } from '../../lib/schedule/schedule.js';

t.test('JSON as Python writes it', async (t) => {
  const text =
    '{"_class_name": "X", "a": -Infinity, "b": [NaN, Infinity, 1e5], "c": "NaN, -Infinity \\" Infinity", "d": -1.5}';
  const expected = {
    _class_name: 'X',
    a: -Infinity,
    b: [Number.NaN, Infinity, 1e5],
    c: 'NaN, -Infinity " Infinity',
    d: -1.5,
  };
  t.strictSame(parseSchedulerConfig(text), expected);
  t.strictSame(parseSchedulerConfig(`\uFEFF${text}`), expected);
  t.strictSame(parseSchedulerConfig('{}'), {});
  for (const wrong of ['{"a": Infinity1}', '{"a": +Infinity}', '{"a": nan}', '{"a": 1,}', '{"a"']) {
    t.throws(() => parseSchedulerConfig(wrong), {
      code: 'ERR_SDPO_CONFIG',
      message: /^Expected the scheduler config to be/,
    });
  }
  for (const value of ['[1]', '5', 'null', 'NaN']) {
    t.throws(() => parseSchedulerConfig(value), { code: 'ERR_SDPO_CONFIG', message: /to be a JSON object, received/ });
  }
});

t.test('a file', async (t) => {
  const solver = '{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity}';
  const folder = t.testdir({
    'config.json': solver,
    'bom.json': `\uFEFF${solver}`,
    lfs: 'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n',
    comments: '{\n  // the class\n  "_class_name": "DDPMScheduler"\n}',
    hash: '{\n  # the class\n  "_class_name": "DDPMScheduler"\n}',
    url: '{"_class_name": "http://example.org//"',
    page: '\n<!DOCTYPE html><html></html>',
    empty: '',
    folder: {},
  });
  const plain = NoiseSchedule.fromDiffusers({ _class_name: 'DPMSolverMultistepScheduler' }, { inferenceSteps: 10 });
  for (const name of ['config.json', 'bom.json']) {
    t.strictSame(NoiseSchedule.fromFile(join(folder, name), { inferenceSteps: 10 }).toJSON(), plain.toJSON());
  }
  const cases: [string, RegExp][] = [
    ['lfs', /received: a git LFS pointer.*git lfs pull/],
    ['comments', /received: JSON with comments/],
    ['hash', /received: JSON with comments/],
    ['page', /received: a page of markup/],
    ['empty', /received: an empty file/],
    ['folder', /received a folder/],
    ['nowhere', /no such file/],
  ];
  for (const [name, message] of cases) {
    t.throws(() => NoiseSchedule.fromFile(join(folder, name)), { name: 'SdpoError', code: 'ERR_SDPO_CONFIG', message });
  }
  try {
    NoiseSchedule.fromFile(join(folder, 'url'));
    t.fail('no JSON');
  } catch (error) {
    t.notMatch((error as Error).message, /comments/, 'slashes within strings are none');
  }
});
