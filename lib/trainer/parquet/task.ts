/** What can be asked of a Parquet file, in whichever thread. */

import { type Columns, type ParquetFooter, readFooter } from './footer.js';
import { type GroupPairs, type GroupRequest, readGroup } from './group.js';

export type Task =
  | { readonly kind: 'footer'; readonly path: string; readonly columns: Columns }
  | ({ readonly kind: 'group' } & GroupRequest);

export interface Performed {
  readonly result: ParquetFooter | GroupPairs;
  /** Memory of the result that another thread can be given. */
  readonly moved: ArrayBuffer[];
}

export async function perform(task: Task): Promise<Performed> {
  if (task.kind === 'footer') return { result: await readFooter(task.path, task.columns), moved: [] };
  const result = await readGroup(task);
  const { chosen, rejected, confidence } = result;
  const parts = [chosen, rejected, ...(confidence === undefined ? [] : [confidence])];
  return { result, moved: parts.map(({ buffer }) => buffer) };
}
