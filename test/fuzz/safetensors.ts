/** Safetensors files: as pairs, in memory and within a checkpoint, damaged. */

import { decodeSafetensors, encodeSafetensors } from '../../lib/index.js';
import { pairsFromSafetensors } from '../../lib/trainer/data.js';
import { mutateJson } from './mutate.js';
import { demand, isRefusal, type Seed, type Target } from './target.js';

const ROWS = 3;

function seed(): Seed {
  const numbers = (length: number) => Float32Array.from({ length }, (_, i) => i / 4);
  const tensors = {
    chosen: { dtype: 'float32', shape: [ROWS, 2, 2], data: numbers(4 * ROWS) },
    rejected: { dtype: 'float32', shape: [ROWS, 2, 2], data: numbers(4 * ROWS) },
    condition: { dtype: 'int64', shape: [ROWS, 2], data: new BigInt64Array(2 * ROWS) },
    confidence: { dtype: 'float16', shape: [ROWS], data: Uint16Array.of(0x3c00, 0x3800, 0) },
    unused: { dtype: 'float8_e4m3', shape: [5], data: new Uint8Array(5) },
  } as const;
  const bytes = encodeSafetensors(tensors, { ids: JSON.stringify(['a', 'b', 'c"\\']) });
  const length = Number(new DataView(bytes.buffer).getBigUint64(0, true));
  const header = JSON.parse(Buffer.from(bytes.subarray(8, 8 + length)).toString());
  return {
    name: 'pairs',
    bytes: Buffer.from(bytes),
    alter(random) {
      const changed = mutateJson(header, random);
      const size = Buffer.alloc(8);
      size.writeBigUInt64LE(BigInt(changed.length));
      return Buffer.concat([size, changed, bytes.subarray(8 + length)]);
    },
  };
}

export const safetensorsTarget = (): Target => ({
  name: 'safetensors',
  seeds: [seed()],
  async read(path, _, damaged) {
    try {
      const { tensors } = decodeSafetensors(damaged);
      for (const { shape, data } of Object.values(tensors)) {
        demand(data.length === shape.reduce((a, b) => a * b, 1), 'a tensor of another length than its shape');
      }
    } catch (error) {
      if (!isRefusal(error, /^ERR_SDPO_INVALID_ARG_VALUE$/)) throw error;
    }
    const data = await pairsFromSafetensors(path);
    const size = data.shape.reduce((a, b) => a * b);
    for (let i = 0; i < Math.min(data.length, 64); i++) {
      try {
        const { chosen, rejected, id } = await data.get(i);
        demand(chosen.length === size && rejected.length === size, 'a sample of another length than the shape');
        demand(chosen.every(Number.isFinite) && typeof id === 'string', 'a pair that is none');
      } catch (error) {
        if (!isRefusal(error, /^ERR_SDPO_DATA$/)) throw error;
      }
    }
  },
});
