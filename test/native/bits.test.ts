/** The same bits on any instruction set, with any library of mathematics, of NaN as of numbers. */

import t from 'tap';
import { binding } from '../../lib/native/binding.js';
import { jsonOf, library } from '../helpers/child.js';

const helpers = JSON.stringify(new URL('../helpers/batches.ts', import.meta.url).href);
const instructionSets = { baseline: 0, avx2: 1, avx512: 2 } as const;
const own = binding.devices()[0].instructionSet as keyof typeof instructionSets;

/** glibc's own choices for a processor with less. */
const libraries = ['', 'glibc.cpu.hwcaps=-FMA,-FMA4,-AVX2', 'glibc.cpu.hwcaps=-AVX512F,-FMA_Usable,-FMA,-AVX2_Usable'];

const program = `
  import { noise, PreferenceLoss } from ${library};
  import { digestOf, digests, largeBatch } from ${helpers};
  const out = {};
  const many = largeBatch(3000, 16, 'float32');
  many.transition.omega = Float64Array.from({ length: 3000 }, (_, i) => i / 3000);
  for (const objective of ['diffusion-dpo', 'dpo-cm', 'sdpo', 'dspo', 'dmpo', 'mapo', 'linear-dpo']) {
    const masked = objective === 'sdpo' || objective === 'dpo-cm' ? { maskThreshold: 0 } : {};
    out[objective] = digests(new PreferenceLoss({ objective, beta: 10, ...masked }).evaluate(many));
  }
  out.noise = digestOf(noise(7, 0, new Float64Array(100000)));
  const mixtures = {
    float64: 'float64', float32: 'float32', float16: 'float16', bfloat16: 'bfloat16',
    mixed: (branch, tensor) => tensor === 'policy' ? 'float16' : branch === 'chosen' ? 'float32' : 'bfloat16',
    wide: (branch, tensor) => tensor === 'reference' ? 'float64' : 'bfloat16',
  };
  // A value that is not finite in each tensor, at an element with and at one without a weight.
  const bad = [['policy', Infinity], ['reference', -Infinity], ['target', NaN]];
  for (const [name, dtypes] of Object.entries(mixtures)) {
    for (const elementWeights of [undefined, Float32Array.from({ length: 40 }, (_, i) => i % 2)]) {
      const batch = { ...largeBatch(3, 40, dtypes), elementWeights };
      bad.forEach(([tensor, value], row) => {
        const stored = batch.chosen[tensor].data ?? batch.chosen[tensor];
        const bits = stored instanceof Uint16Array;
        const halves = batch.chosen[tensor].dtype === 'float16' ? [0x7c00, 0xfc00, 0xfe01] : [0x7f80, 0xff80, 0xffc1];
        for (const element of [7, 8]) stored[row * 40 + element] = bits ? halves[row] : value;
      });
      for (const nonFinite of ['propagate', 'skip']) {
        const loss = new PreferenceLoss({ objective: 'dspo', beta: 2, klWeight: 0.5, nonFinite });
        out[name + nonFinite + (elementWeights === undefined)] = digests(loss.evaluate(batch));
      }
    }
  }
  // Finite rows whose gradients overflow, in opposite directions: infinity minus infinity.
  const steep = new PreferenceLoss({ objective: 'dspo', beta: 2, klWeight: 1, nonFinite: 'skip' });
  for (const dtype of ['float32', 'float16', 'bfloat16']) {
    const result = steep.evaluate(largeBatch(2, 40, dtype), { gradientScale: 1e300 });
    out['overflow' + dtype] = digests(result);
    const stored = result.gradients.chosen.data ?? result.gradients.chosen;
    const words = stored instanceof Uint16Array ? stored : new Uint32Array(stored.buffer);
    out['kinds' + dtype] = [...new Set(words)].map((word) => word.toString(16)).sort();
  }
  // Differences that half a difference, a product or a square makes too small for the dtype, among others that are not.
  const tiny = { float64: [Float64Array, 2 ** -1074], float32: [Float32Array, 2 ** -149] };
  for (const [dtype, [Stored, unit]] of Object.entries(tiny)) {
    const values = (seed) => Stored.from({ length: 200 }, (_, i) =>
      ((i * seed) % 31 - 15) * (i % 3 === 0 ? unit : i % 3 === 1 ? Math.sqrt(unit) : 2 ** -(i % 40)));
    const branch = (seed) => ({ policy: values(seed), reference: values(seed + 6), target: values(seed + 16) });
    const batch = { timesteps: [1, 2], chosen: branch(7), rejected: branch(11), transition: { omega: [0.05, 0.1] } };
    for (const elementWeights of [undefined, Stored.from({ length: 100 }, (_, i) => i % 7)]) {
      const loss = new PreferenceLoss({ objective: 'dspo', beta: 2, klWeight: 0.5 });
      out['tiny' + dtype + (elementWeights === undefined)] = digests(loss.evaluate({ ...batch, elementWeights }));
    }
  }
  console.log(JSON.stringify(out));`;

t.test('instruction sets and libraries of mathematics', async (t) => {
  const expected = jsonOf<Record<string, unknown>>(program);
  const sets = Object.keys(instructionSets).filter(
    (name) => instructionSets[name as keyof typeof instructionSets] <= instructionSets[own],
  );
  for (const isa of sets) {
    for (const tunables of libraries) {
      const found = jsonOf<Record<string, unknown>>(program, { env: { SDPO_ISA: isa, GLIBC_TUNABLES: tunables } });
      t.same(found, expected, `${isa} ${tunables}`);
    }
  }
  // Infinity and the one NaN there is.
  for (const [dtype, kinds] of [
    ['float32', ['7f800000', '7fc00000', 'ff800000']],
    ['float16', ['7c00', '7e00', 'fc00']],
    ['bfloat16', ['7f80', '7fc0', 'ff80']],
  ] as const) {
    const found = expected[`kinds${dtype}`] as string[];
    t.same(
      found.filter((kind) => !(kinds as readonly string[]).includes(kind)),
      [],
      `${dtype}: infinities and one NaN`,
    );
    t.ok(found.includes(kinds[1]), 'of which there are some');
  }
});
