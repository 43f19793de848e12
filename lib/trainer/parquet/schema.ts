/** The leaf columns of a Parquet schema, with what their levels mean, after the tree was found to be one. */

import type { SchemaElement } from 'hyparquet';
import { countOf, damaged } from './damage.js';

/** A column that holds values. */
export interface Leaf {
  /** Names from the top level down. */
  readonly path: readonly string[];
  readonly element: SchemaElement;
  /** Bits per value where all values have the same; undefined for byte arrays. */
  readonly bits: number | undefined;
  /** Definition level of a value that is there. */
  readonly maxDefinition: number;
  /** Lists around a value. */
  readonly maxRepetition: number;
}

const MAX_DEPTH = 32;
/** A decimal of more bytes would be computed digit by digit for longer than anybody waits. */
export const MAX_DECIMAL_BYTES = 64;

const BITS: Readonly<Record<string, number>> = { BOOLEAN: 1, INT32: 32, INT64: 64, INT96: 96, FLOAT: 32, DOUBLE: 64 };

/** All leaf columns, in the order of the schema, which is that of the columns of a row group. */
export function leavesOf(schema: readonly SchemaElement[]): Leaf[] {
  const leaves: Leaf[] = [];
  let next = 0;
  const take = (path: readonly string[], definition: number, repetition: number): void => {
    if (path.length > MAX_DEPTH) damaged(`a schema nested more than ${MAX_DEPTH} deep`);
    const element = schema[next++];
    if (element === undefined) damaged('a schema that ends early');
    const isRoot = next === 1;
    if (!isRoot && (typeof element.name !== 'string' || element.repetition_type === undefined)) {
      damaged('a column without a name or repetition');
    }
    const own = isRoot ? path : [...path, element.name];
    const definitions = definition + (isRoot || element.repetition_type === 'REQUIRED' ? 0 : 1);
    const repetitions = repetition + (element.repetition_type === 'REPEATED' ? 1 : 0);
    const children = countOf('a number of fields', element.num_children ?? 0);
    if (children === 0 && !isRoot) leaves.push(leafOf(element, own, definitions, repetitions));
    for (let i = 0; i < children; i++) take(own, definitions, repetitions);
  };
  take([], 0, 0);
  if (next !== schema.length) damaged(`a schema of ${next} of its ${schema.length} elements`);
  return leaves;
}

function leafOf(element: SchemaElement, path: readonly string[], maxDefinition: number, maxRepetition: number): Leaf {
  const { type, type_length: length, converted_type: converted, logical_type: logical } = element;
  if (type === undefined) damaged(`the column ${path.join('.')} without a type`);
  let bits: number | undefined = BITS[type];
  if (type === 'FIXED_LEN_BYTE_ARRAY') {
    const bytes = countOf(`a length of ${path.join('.')}`, length);
    const fits = bytes > 0 && (logical?.type !== 'FLOAT16' || bytes === 2);
    if (!fits || (converted === 'DECIMAL' && bytes > MAX_DECIMAL_BYTES))
      damaged(`values of ${bytes} bytes in ${path.join('.')}`);
    bits = 8 * bytes;
  }
  return { path, element, bits, maxDefinition, maxRepetition };
}
