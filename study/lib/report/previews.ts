/** The samples that a training run drew, as image files, by step. */

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { stripHtml } from './html.js';

/** The samples of one step, in their order. */
export interface Preview {
  readonly step: number;
  /** Data URIs. */
  readonly images: readonly string[];
}

const NAME = /^(\d+)-(\d+)\.(png|jpg|webp)$/;
const TYPES: Readonly<Record<string, string>> = { png: 'image/png', jpg: 'image/jpeg', webp: 'image/webp' };

/** Steps shown of a run: the first, the last, and some between them. */
const MAX_STEPS = 8;

/** What is there to show, a page's worth of it; empty where the run drew nothing. */
export function readPreviews(folder: string): Preview[] {
  if (!existsSync(folder)) return [];
  const files = readdirSync(folder).flatMap((name) => {
    const [, step, index, extension] = NAME.exec(name) ?? [];
    return extension === undefined ? [] : [{ name, step: Number(step), index: Number(index), type: TYPES[extension] }];
  });
  const steps = [...new Set(files.map(({ step }) => step))].sort((a, b) => a - b);
  const chosen = new Set(
    Array.from({ length: MAX_STEPS }, (_, i) => Math.round((i * (steps.length - 1)) / (MAX_STEPS - 1))),
  );
  const shown = steps.length <= MAX_STEPS ? steps : steps.filter((_, i) => chosen.has(i));
  return shown.map((step) => {
    const images = files.filter((file) => file.step === step).sort((a, b) => a.index - b.index);
    const uriOf = ({ name, type }: (typeof files)[number]) =>
      `data:${type};base64,${readFileSync(join(folder, name)).toString('base64')}`;
    return { step, images: images.map(uriOf) };
  });
}

export function previewsHtml(run: string, previews: readonly Preview[]): string {
  return stripHtml(
    run,
    previews.map(({ step, images }) => ({ label: `step ${step}`, uris: images })),
  );
}
