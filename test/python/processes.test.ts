/** The Python package in more than one process: loading, fork, exit, two ranks, the examples, and the wheel. */

import t from 'tap';
import { missing, runPythonTests } from '../helpers/python.js';

for (const module of ['test_library', 'test_distributed', 'test_examples', 'test_wheel']) {
  t.test(module, { skip: missing(), timeout: 600_000 }, (t) => runPythonTests(t, [module]));
}
