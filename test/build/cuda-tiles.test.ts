/** The tiles of the CUDA kernels, run on the host against the CPU backend: the same functions that the device compiler sees. */

import t from 'tap';
import { hostCompiler, runProgram, versionOf } from '../helpers/cuda-program.js';

const compiler = await versionOf(hostCompiler);

t.test(
  'every dtype, odd sizes, alignments, strides, element weights, passes and failures',
  { skip: compiler === undefined && `no C++ compiler: ${hostCompiler} cannot be run` },
  async (t) => {
    const cpu = ['kernels_baseline', 'rows', 'evaluate', 'scratch', 'threads', 'processors'].map(
      (name) => `native/cpu/${name}.cc`,
    );
    const { code, output } = await runProgram(['test/build/cuda-host/emulate.cc', ...cpu]);
    t.equal(code, 0, output);
    t.match(output, /^[1-9]\d* checks, 0 failures$/m);
  },
);
