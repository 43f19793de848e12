/** A gradient has the same bits wherever its row begins and ends, and where it is written over what it is made of. */

import t from 'tap';
import { binding } from '../../lib/native/binding.js';
import { jsonOf, library } from '../helpers/child.js';

const helpers = JSON.stringify(new URL('../helpers/batches.ts', import.meta.url).href);

const program = `
  import { PreferenceLoss } from ${library};
  import { branches, largeBatch, storedOf, tensors } from ${helpers};
  import { Tensor } from ${library};
  const rows = 40;
  const same = (a, b) => Buffer.compare(Buffer.from(a.buffer, a.byteOffset, a.byteLength), Buffer.from(b.buffer, b.byteOffset, b.byteLength)) === 0;
  const placed = (like, stored, shape) => (like instanceof Tensor ? Tensor.from(stored, { shape, dtype: like.dtype }) : stored);
  let compared = 0;
  const different = [];
  for (const dtype of ['float64', 'float32', 'float16', 'bfloat16']) {
    // Around the lanes of a vector and the elements of a line, and beyond a tile; rows of odd sizes begin everywhere in a line.
    for (const size of [1, 2, 7, 8, 9, 15, 16, 17, 23, 31, 32, 33, 40, 47, 48, 49, 63, 64, 65, 81, 95, 97, 101, 4097, 8209]) {
      const batch = largeBatch(rows, size, dtype);
      for (const elementWeights of [undefined, Float32Array.from({ length: size }, (_, i) => (i + 1) % 3)]) {
        for (const klWeight of [0, 0.5]) {
          const loss = new PreferenceLoss({ objective: 'dspo', beta: 2, ...(klWeight > 0 && { klWeight }) });
          const result = loss.evaluate({ ...batch, elementWeights });
          const label = [dtype, size, elementWeights === undefined, klWeight].join(' ');
          for (let row = 0; row < rows; row++) {
            const omega = batch.transition.omega.slice(row, row + 1);
            const single = { timesteps: [row], transition: { omega }, elementWeights };
            for (const branch of branches) {
              single[branch] = {};
              for (const tensor of tensors) {
                const like = batch[branch][tensor];
                single[branch][tensor] = placed(like, storedOf(like).slice(row * size, (row + 1) * size), [1, size]);
              }
            }
            const alone = loss.evaluate(single, { denominator: rows });
            for (const branch of branches) {
              const there = storedOf(result.gradients[branch]).subarray(row * size, (row + 1) * size);
              compared++;
              if (!same(there, storedOf(alone.gradients[branch]))) different.push(label + ' ' + branch + ' ' + row);
            }
          }
          for (const tensor of tensors) {
            const into = loss.evaluate({ ...batch, elementWeights });
            const over = { ...batch, elementWeights };
            for (const branch of branches) {
              const out = into.gradients[branch];
              (out.data ?? out).set(storedOf(batch[branch][tensor]));
              over[branch] = { ...batch[branch], [tensor]: out };
            }
            loss.evaluate(over, { into });
            for (const branch of branches) {
              compared++;
              if (!same(storedOf(into.gradients[branch]), storedOf(result.gradients[branch]))) different.push(label + ' over ' + tensor);
            }
          }
        }
      }
    }
  }
  console.log(JSON.stringify({ compared, different: different.slice(0, 20) }));`;

t.test('rows anywhere, and results over inputs', async (t) => {
  for (const isa of new Set(['baseline', 'avx2', binding.devices()[0].instructionSet])) {
    const { compared, different } = jsonOf<{ compared: number; different: string[] }>(program, {
      env: { SDPO_ISA: isa },
    });
    t.equal(compared, 4 * 25 * 4 * (2 * 40 + 6), isa);
    t.same(different, [], `${isa}: nothing differs`);
  }
});
