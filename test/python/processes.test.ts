/** The Python package in more than one process: loading, fork, exit, two ranks, the examples; and installed from a source distribution. */

import t from 'tap';
import { interpreters, runPythonTests } from '../helpers/python.js';

for (const [i, python] of interpreters().entries()) {
  const modules = ['test_library', 'test_distributed', 'test_examples'];
  // Building needs scikit-build-core, which belongs to the newer environment.
  if (i === 1) modules.push('test_install');
  t.test(python.name, { skip: python.skip, timeout: 600_000 }, (t) => runPythonTests(t, python, modules));
}
