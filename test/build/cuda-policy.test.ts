/** Launch parameters on every architecture, and the order of tiles by simulation: plain C++, run on the host. */

import t from 'tap';
import { hostCompiler, runProgram, versionOf } from '../helpers/cuda-program.js';

const compiler = await versionOf(hostCompiler);

t.test(
  'occupancy, bytes in flight, tiles and ticket order',
  { skip: compiler === undefined && `no C++ compiler: ${hostCompiler} cannot be run` },
  async (t) => {
    const { code, output } = await runProgram(['test/build/cuda-host/policy.cc']);
    t.equal(code, 0, output);
    t.match(output, /^[1-9]\d* checks, 0 failures$/m);
  },
);
