import type { Policy } from '../../lib/trainer/index.js';

export default function linearPolicy(
  options: { delay?: number; scale?: number },
  context: { shape: readonly number[]; seed: number; folder: string },
): Policy;
