/** Weights as safetensors files: what the committed base and the results of a run are kept in. */

import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { decodeSafetensors, encodeSafetensors } from 'sdpo';
import { np, type Params, ref, toFloat32 } from './jax.js';

/** The folder of the committed weights. */
export const WEIGHTS_FOLDER = new URL('weights/', import.meta.url);

/** The bytes of a safetensors file with the parameters, which are not consumed. */
export function saveWeights(params: Params, metadata: Record<string, string>): Uint8Array {
  const entries = Object.entries(ref(params)).map(([name, value]) => [
    name,
    { dtype: 'float32' as const, shape: value.shape, data: toFloat32(value) },
  ]);
  return encodeSafetensors(Object.fromEntries(entries), metadata);
}

/** Reads parameters and checks that they are the ones of `shapes`. */
export function loadWeights(file: URL, shapes: Readonly<Record<string, readonly number[]>>): Params {
  const path = fileURLToPath(file);
  const { tensors } = decodeSafetensors(readFileSync(file));
  const unknown = Object.keys(tensors).filter((name) => !Object.hasOwn(shapes, name));
  if (unknown.length > 0) throw new Error(`Expected ${path} to hold only the model's parameters, received ${unknown}`);
  return Object.fromEntries(
    Object.entries(shapes).map(([name, shape]) => {
      const entry = tensors[name];
      if (entry?.dtype !== 'float32' || String(entry.shape) !== String(shape)) {
        const received = entry ? `${entry.dtype} [${entry.shape}]` : 'no such tensor';
        throw new Error(`Expected ${name} in ${path} to be float32 [${shape}], received ${received}`);
      }
      return [name, np.array(entry.data as Float32Array<ArrayBuffer>, { shape: [...shape] })];
    }),
  );
}
