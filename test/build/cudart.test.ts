/** The option SDPO_CUDART of the build: what it refuses. That it is linked everywhere the device tests show, which run on it (npm run test:device). */

import t from 'tap';
import { cudaCompiler, inFolder, root, run, versionOf } from '../helpers/cuda-program.js';

const cmake = await versionOf('cmake');
const nvcc = await versionOf(cudaCompiler);

/** What configuring says with these settings; it has to fail. */
function refusal(settings: Record<string, string>): Promise<string> {
  return inFolder(async (folder) => {
    const env = { ...process.env, SDPO_ADDON: 'OFF', ...settings };
    try {
      await run('cmake', ['-S', root, '-B', folder], { env });
    } catch (error) {
      return (error as { stderr: string }).stderr.replace(/\s+/g, ' ');
    }
    throw new Error(`cmake takes ${JSON.stringify(settings)}`);
  });
}

t.test('a runtime without a backend to link it to', { skip: cmake === undefined && 'no cmake' }, async (t) => {
  t.match(
    await refusal({ SDPO_CUDA: 'OFF', SDPO_CUDART: 'lib.a' }),
    /SDPO_CUDART is given, but there is no CUDA backend/,
  );
});

t.test(
  'a runtime that is not there',
  { skip: (cmake === undefined && 'no cmake') || (nvcc === undefined && `no CUDA compiler: ${cudaCompiler}`) },
  async (t) => {
    const text = await refusal({ SDPO_CUDA: 'ON', SDPO_CUDART: 'nowhere.a' });
    t.match(text, new RegExp(`SDPO_CUDART: expected a library file, received ${root}nowhere.a`));
  },
);
