/** Draws samples while a policy is trained, where it can give some: image files in the folder of the run, beside the numbers of held-out pairs. */

import { join } from 'node:path';
import writeFileAtomic from 'write-file-atomic';
import { failType } from '../native/validate.js';
import { makeFolder, namingFiles } from '../trainer/file-error.js';
import type { MetricsWriter, PairDataset, Policy } from '../trainer/types.js';

/** Formats that browsers show, by how their files begin. */
const FORMATS: readonly { readonly extension: string; readonly matches: (bytes: Buffer) => boolean }[] = [
  { extension: 'png', matches: (bytes) => bytes.subarray(0, 8).equals(Buffer.from('\x89PNG\r\n\x1a\n', 'latin1')) },
  { extension: 'jpg', matches: (bytes) => bytes.subarray(0, 3).equals(Buffer.of(0xff, 0xd8, 0xff)) },
  {
    extension: 'webp',
    matches: (bytes) => bytes.toString('latin1', 0, 4) === 'RIFF' && bytes.toString('latin1', 8, 12) === 'WEBP',
  },
];

export interface PreviewOptions {
  readonly policy: Policy;
  /** The held-out pairs, the first `count` of which are drawn. */
  readonly data: PairDataset;
  readonly count: number;
  readonly seed: number;
  readonly folder: string;
}

/**
 * Writes `<step>-<number>.png` (or jpg, webp) at each validation. It has to come before the writer of the log: what fails here is made again by the run that
 * goes on, together with its entry.
 */
export function previewWriter({ policy, data, count, seed, folder }: PreviewOptions): MetricsWriter {
  return {
    async write({ step, kind }) {
      if (kind !== 'validation' || policy.preview === undefined || count === 0) return;
      const length = Math.min(count, data.length);
      const pairs = await Promise.all(Array.from({ length }, (_, i) => data.get(i)));
      const images: unknown = await policy.preview({ step, seed, pairs });
      if (!Array.isArray(images)) failType('the result of policy.preview()', 'a list of images', images);
      const files = images.map((image: unknown, i) => {
        const bytes = image instanceof Uint8Array ? Buffer.from(image) : undefined;
        const format = bytes && FORMATS.find(({ matches }) => matches(bytes));
        if (bytes === undefined || format === undefined) {
          failType(`image ${i} of policy.preview()`, 'the bytes of a PNG, JPEG or WebP file', image);
        }
        return { path: join(folder, `${step}-${i}.${format.extension}`), bytes };
      });
      for (const { path, bytes } of files) {
        await namingFiles({ task: `write a preview of step ${step}`, path }, async () => {
          makeFolder(folder);
          await writeFileAtomic(path, bytes);
        });
      }
    },
  };
}
