/** Typed arrays whoever made them: by what they are, and not by what they say of themselves. */

const CLASSES = [
  Float64Array,
  Float32Array,
  Int32Array,
  Uint32Array,
  Int16Array,
  Uint16Array,
  Int8Array,
  Uint8Array,
  Uint8ClampedArray,
] as const;

/** A typed array of numbers. */
export type NumberArray = InstanceType<(typeof CLASSES)[number]>;

const BY_NAME = new Map<unknown, (typeof CLASSES)[number]>(CLASSES.map((Class) => [Class.name, Class]));

const shared = Object.getPrototypeOf(Uint8Array.prototype) as object;
const getter = (name: PropertyKey) => Object.getOwnPropertyDescriptor(shared, name)!.get!;
const [nameOf, bufferOf] = [getter(Symbol.toStringTag), getter('buffer')];
const [offsetOf, lengthOf] = [getter('byteOffset'), getter('length')];

/**
 * A typed array of numbers as a plain one of this realm, over the same memory: itself where it is one. Those of another realm (node:vm; in Jest
 * everything that structuredClone, v8.deserialize or a worker gives) and of a class of the caller's own become one. undefined for everything else, Proxies
 * included: they have no elements of their own.
 */
export function typedArray(value: unknown): NumberArray | undefined {
  const Class = BY_NAME.get(nameOf.call(value));
  if (Class === undefined) return undefined;
  if (Object.getPrototypeOf(value) === Class.prototype && !Object.hasOwn(value as object, 'length')) {
    return value as NumberArray;
  }
  return new Class(bufferOf.call(value) as ArrayBuffer, offsetOf.call(value) as number, lengthOf.call(value) as number);
}

/** Whether a value is a typed array of a class, of whatever realm. */
export function isTypedArrayOf(Class: { readonly name: string }, value: unknown): boolean {
  return nameOf.call(value) === Class.name;
}

/** Array.isArray of anything: a revoked Proxy is none. */
export function isArray(value: unknown): value is unknown[] {
  try {
    return Array.isArray(value);
  } catch {
    return false;
  }
}

/** What a value is called in a message: its class, as far as a Proxy or its own fields tell. */
export function className(value: object): string {
  let name: unknown;
  try {
    name = value.constructor?.name;
  } catch {
    name = undefined;
  }
  return typeof name === 'string' && name !== '' ? name : 'Object';
}
