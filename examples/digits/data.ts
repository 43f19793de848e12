/** Loads the 1797 handwritten digits and splits them, always in the same way, into 1297 for training and 500 for testing. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';

/** Pixels of one image: 8 rows of 8. */
export const PIXELS = 64;
export const CLASSES = 10;
const TEST_COUNT = 500;

/** Images and their labels, one row of `images` per label. */
export interface Digits {
  /** `[count, 64]`, paper is -1 and full ink is 1. */
  readonly images: Float32Array;
  /** `[count]`, the digit 0 to 9. */
  readonly labels: Uint8Array;
}

/** The digits of both parts. */
export function loadDigits(): { train: Digits; test: Digits } {
  const pixels = readFileSync(new URL('data/images.u8', import.meta.url));
  const labels = readFileSync(new URL('data/labels.u8', import.meta.url));
  if (pixels.length !== labels.length * PIXELS) {
    throw new Error(`Expected ${labels.length} images of ${PIXELS} bytes, received ${pixels.length} bytes`);
  }
  const order = fixedPermutation(labels.length);
  const select = (indices: readonly number[]): Digits => {
    const images = new Float32Array(indices.length * PIXELS);
    indices.forEach((source, row) => {
      for (let i = 0; i < PIXELS; i++) images[row * PIXELS + i] = pixels[source * PIXELS + i]! / 8 - 1;
    });
    return { images, labels: Uint8Array.from(indices, (source) => labels[source]!) };
  };
  return { train: select(order.slice(0, -TEST_COUNT)), test: select(order.slice(-TEST_COUNT)) };
}

/** One image as a view into `digits.images`. */
export function image(digits: Digits, index: number): Float32Array {
  return digits.images.subarray(index * PIXELS, (index + 1) * PIXELS);
}

/** Rows of the digits whose label satisfies `test`. */
export function rowsWhere(digits: Digits, test: (label: number) => boolean): number[] {
  return Array.from(digits.labels.keys()).filter((row) => test(digits.labels[row]!));
}

/**
 * The indices ordered by a hash of themselves: the committed weights were trained on this split, so it must not depend on a
 * generator whose stream could change with a version.
 */
function fixedPermutation(count: number): number[] {
  const key = (index: number) => createHash('sha256').update(`digit ${index}`).digest('hex');
  return Array.from({ length: count }, (_, index) => ({ index, key: key(index) }))
    .sort((a, b) => (a.key < b.key ? -1 : 1))
    .map(({ index }) => index);
}
