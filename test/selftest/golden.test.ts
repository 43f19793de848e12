/** The golden values of the self-test: they are those of the oracle, and every objective has a reference. */

import t from 'tap';
import { OBJECTIVES } from '../../lib/index.js';
import { GOLDEN } from '../../lib/selftest/golden.js';
import { goldenCases } from '../../scripts/selftest-golden.js';
import { close } from '../helpers/close.js';

const tolerance = { relative: 1e-7, absolute: 1e-9 };

t.test('the oracle gives the golden values', async (t) => {
  const made = goldenCases();
  t.equal(made.length, GOLDEN.length);
  for (const [k, { loss, logit, gradients, ...rest }] of made.entries()) {
    const golden = GOLDEN[k];
    const { objective } = golden.options;
    t.match(golden, rest, objective);
    close(t, `${objective}: loss`, [golden.loss], [loss], tolerance);
    close(t, `${objective}: logit`, golden.logit, logit, tolerance);
    for (const branch of ['chosen', 'rejected'] as const) {
      close(t, `${objective}: ${branch}`, golden.gradients[branch], gradients[branch], tolerance);
    }
  }
});

t.test('every objective is checked against a reference', async (t) => {
  const referenced = ['diffusion-dpo', 'dpo-cm', 'sdpo']; // lib/selftest/reference.ts
  t.same([...referenced, ...GOLDEN.map(({ options }) => options.objective)].sort(), [...OBJECTIVES].sort());
});
