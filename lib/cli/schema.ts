/** Checks a config against its JSON Schema, fills in the defaults, and words what is wrong: the path, what was expected and what came. */

import { readFileSync } from 'node:fs';
import { Ajv, type ErrorObject } from 'ajv';
import { closest, distance } from 'fastest-levenshtein';
import { printable } from '../native/printable.js';

/** The part of JSON Schema that our schemas use. */
interface Schema {
  readonly type?: string;
  readonly enum?: readonly unknown[];
  readonly const?: unknown;
  readonly default?: unknown;
  readonly anyOf?: readonly Schema[];
  readonly oneOf?: readonly Schema[];
  readonly required?: readonly string[];
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly minimum?: number;
  readonly exclusiveMinimum?: number;
  readonly maximum?: number;
  readonly exclusiveMaximum?: number;
  readonly minLength?: number;
  readonly minItems?: number;
  readonly maxItems?: number;
  readonly $ref?: string;
  readonly definitions?: Readonly<Record<string, Schema>>;
}

/** A schema of this package, by the name of its file. */
export function readSchema(name: string): Schema {
  return JSON.parse(readFileSync(new URL(`../../schema/${name}.schema.json`, import.meta.url), 'utf8')) as Schema;
}

/**
 * Checks a value, writes the schema's defaults into it, and gives a sentence for everything that is wrong.
 *
 * @param root how messages call the value itself
 */
export function problemsOf(schema: Schema, value: unknown, root: string): string[] {
  // Editors read more than validation needs; `strictTypes` would want a type beside every keyword.
  const ajv = new Ajv({ allErrors: true, verbose: true, useDefaults: true, discriminator: true, strictTypes: false });
  const validate = ajv.compile(schema as object);
  if (validate(value)) return [];
  const errors = validate.errors ?? [];
  // Where no alternative fits, the sentence about all of them says it; those about each would contradict one another.
  const alternatives = errors.filter(({ keyword }) => keyword === 'anyOf' || keyword === 'oneOf');
  const isObject = (data: unknown) => typeof data === 'object' && data !== null && !Array.isArray(data);
  const shown = errors.filter(
    ({ keyword, schemaPath, parentSchema, data }) =>
      !alternatives.some((whole) => schemaPath.startsWith(`${whole.schemaPath}/`)) &&
      // What is no object has none of the fields, and another sentence says that it is no object.
      !(keyword === 'oneOf' && (parentSchema as Schema).type === 'object' && !isObject(data)),
  );
  const word = new Wording(schema, root);
  return [...new Set(shown.map((error) => word.problem(error)))];
}

/** Whether a field, given by the names on the way to it, may be absent and is not allowed to be null: what `null` can then mean is its absence. */
export function isOptionalField(schema: Schema, names: readonly string[]): boolean {
  const resolved = (one: Schema): Schema =>
    one.$ref === undefined ? one : (schema.definitions?.[one.$ref.replace('#/definitions/', '')] ?? {});
  const alternatives = (one: Schema): Schema[] => [one, ...[...(one.oneOf ?? []), ...(one.anyOf ?? [])].map(resolved)];
  let fields = [schema];
  let required = true;
  for (const name of names) {
    const owners = fields
      .map(resolved)
      .flatMap(alternatives)
      .flatMap((owner) => {
        const field = Object.hasOwn(owner.properties ?? {}, name) ? owner.properties?.[name] : undefined;
        return field === undefined ? [] : [{ owner, field }];
      });
    fields = owners.map(({ field }) => field);
    required = owners.every(({ owner }) => owner.required?.includes(name));
  }
  return (
    !required &&
    !fields
      .map(resolved)
      .flatMap(alternatives)
      .some(({ type }) => type === 'null')
  );
}

class Wording {
  readonly #schema: Schema;
  readonly #root: string;

  constructor(schema: Schema, root: string) {
    this.#schema = schema;
    this.#root = root;
  }

  problem({ keyword, params, instancePath, parentSchema, data }: ErrorObject): string {
    const schema = parentSchema as Schema;
    const path = printable(this.#path(instancePath));
    const at = path === '' ? this.#root : path;
    const below = (name: string) => (path === '' ? name : `${path}.${name}`);
    switch (keyword) {
      case 'additionalProperties': {
        const known = Object.keys(schema.properties ?? {});
        const name = String(params.additionalProperty);
        const hint = suggest(name, known);
        const fields = hint === '' ? `the fields ${known.join(', ')}` : 'known fields';
        return `Expected ${at} to have only ${fields}, received ${JSON.stringify(name)}${hint}`;
      }
      case 'required': {
        const name = String(params.missingProperty);
        const part = schema.properties?.[name];
        const expected = part === undefined ? 'present' : this.#expectation(part);
        return `Expected ${below(name)} to be ${expected}, received nothing`;
      }
      case 'discriminator': {
        const name = String(params.tag);
        const known = (schema.oneOf ?? []).map((one) => one.properties?.[name]?.const);
        return `Expected ${below(name)} to be ${oneOf(known)}, received ${received(params.tagValue)}${suggest(params.tagValue, known)}`;
      }
      case 'oneOf': {
        const names = (schema.oneOf ?? []).flatMap((one) => one.required ?? []);
        const given = names.filter((name) => Object.hasOwn(Object(data), name));
        return `Expected ${at} to have exactly one of ${names.join(' and ')}, received ${given.length === 0 ? 'none' : 'both'}`;
      }
      default: {
        const hint = keyword === 'enum' ? suggest(data, schema.enum ?? []) : '';
        return `Expected ${at} to be ${this.#expectation(schema)}, received ${received(data)}${hint}`;
      }
    }
  }

  /** `/data/files/0` as `data.files[0]`. */
  #path(pointer: string): string {
    const parts = pointer.split('/').slice(1);
    return parts
      .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
      .map((part) => (/^\d+$/.test(part) ? `[${part}]` : `.${part}`))
      .join('')
      .replace(/^\./, '');
  }

  #expectation(schema: Schema): string {
    if (schema.$ref !== undefined) {
      return this.#expectation(this.#schema.definitions?.[schema.$ref.replace('#/definitions/', '')] ?? {});
    }
    if (schema.enum !== undefined) return oneOf(schema.enum);
    if (schema.anyOf !== undefined) return schema.anyOf.map((one) => this.#expectation(one)).join(' or ');
    switch (schema.type) {
      case 'number':
        return `a number${bounds(schema)}`;
      case 'integer':
        return `an integer${bounds(schema)}`;
      case 'string':
        return schema.minLength === undefined ? 'a string' : 'a string that is not empty';
      case 'array': {
        const { minItems, maxItems, items = {} } = schema;
        const count =
          minItems === undefined ? '' : minItems === maxItems ? ` of length ${minItems}` : ' that is not empty';
        return `an array${count}, each entry ${this.#expectation(items)}`;
      }
      case 'boolean':
        return 'true or false';
      case 'null':
        return 'null';
      default:
        return 'an object';
    }
  }
}

function bounds({ minimum, exclusiveMinimum, maximum, exclusiveMaximum }: Schema): string {
  const low = minimum ?? exclusiveMinimum;
  const high = maximum ?? exclusiveMaximum;
  if (low === undefined) return high === undefined ? '' : ` ${maximum === undefined ? '<' : '<='} ${high}`;
  if (high === undefined) return ` ${minimum === undefined ? '>' : '>='} ${low}`;
  return ` in ${minimum === undefined ? '(' : '['}${low}, ${high}${maximum === undefined ? ')' : ']'}`;
}

function oneOf(values: readonly unknown[]): string {
  return `one of ${values.map((value) => JSON.stringify(value)).join(', ')}`;
}

const LONGEST_SHOWN = 60;

function received(value: unknown): string {
  if (value === undefined) return 'nothing';
  const text = JSON.stringify(value);
  return text.length > LONGEST_SHOWN ? `${text.slice(0, LONGEST_SHOWN - 3)}…` : text;
}

/** Names this much of which would have to change are not the same name misspelt. */
const LARGEST_CHANGE = 0.4;

/** What a misspelt name was probably meant to be. */
export function suggest(name: unknown, known: readonly unknown[]): string {
  const names = known.filter((other) => typeof other === 'string');
  if (typeof name !== 'string' || names.length === 0) return '';
  const plain = (text: string) => text.toLowerCase().replace(/[_\s-]/g, '');
  const near = closest(plain(name), names.map(plain));
  if (distance(plain(name), near) > LARGEST_CHANGE * name.length) return '';
  return ` (did you mean ${JSON.stringify(names.find((other) => plain(other) === near))}?)`;
}
