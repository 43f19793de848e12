/** What is shown of names and paths does nothing to a terminal and stays on its line. */

import t from 'tap';
import { DivergenceError } from '../../lib/native/errors.js';
import { printable } from '../../lib/native/printable.js';
import { describe } from '../../lib/native/validate.js';

t.test('characters that would act stand as escapes', (t) => {
  const cases: [string, string][] = [
    ['größe/β 猫 🐈', 'größe/β 猫 🐈'],
    ['a\nb\r\tc', 'a\\nb\\r\\tc'],
    ['\u001b[31m\u0007\u0000\u007f\u009b', '\\u001b[31m\\u0007\\u0000\\u007f\\u009b'],
    ['a\u2028b\u2029', 'a\\u2028b\\u2029'],
    ['safe\u202etxt.exe\u2066', 'safe\\u202etxt.exe\\u2066'],
  ];
  for (const [text, shown] of cases) t.equal(printable(text), shown);
  t.end();
});

t.test('also in messages', (t) => {
  const { message } = new DivergenceError(3, ['a cat\nand \u001b[2Ja dog'], 5, 'loss');
  t.match(message, 'pairs a cat\\nand \\u001b[2Ja dog at timestep 5');
  t.equal(describe('a\u2028\u009b'), '"a\\u2028\\u009b"');
  t.end();
});
