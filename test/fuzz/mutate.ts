/** Damages bytes: what transfers, disks, editors and attackers do to files, reproducibly from a seed. */

type Random = () => number;

/** A number in [0, count). */
export const below = (random: Random, count: number): number => Math.floor(random() * count);

const BYTES = [0, 1, 0x0a, 0x0d, 0x20, 0x22, 0x7b, 0x7d, 0x7f, 0x80, 0xff];

/** Bytes of `bytes` with one to four damages. Where `within` is given, only bytes of that range are changed, and none is moved. */
export function mutate(bytes: Buffer, random: Random, within?: readonly [begin: number, end: number]): Buffer {
  let out: Buffer = Buffer.from(bytes);
  for (let left = 1 + below(random, 4); left > 0; left--) {
    out = within === undefined ? anywhere(out, random) : overwritten(out, random, within);
  }
  return out;
}

function anywhere(bytes: Buffer, random: Random): Buffer {
  const at = below(random, bytes.length + 1);
  const length = 1 + below(random, random() < 0.5 ? 4 : 64);
  const part = bytes.subarray(at, at + length);
  switch (below(random, 9)) {
    case 0: // cut short
      return random() < 0.2 ? bytes.subarray(0, at) : overwritten(bytes, random, [0, bytes.length]);
    case 1: // lost
      return Buffer.concat([bytes.subarray(0, at), bytes.subarray(at + length)]);
    case 2: // twice
      return Buffer.concat([bytes.subarray(0, at), part, bytes.subarray(at)]);
    case 3: // something in between
      return Buffer.concat([bytes.subarray(0, at), filling(length, random), bytes.subarray(at)]);
    case 4: {
      // moved over another place
      const out = Buffer.from(bytes);
      part.copy(out, below(random, bytes.length + 1));
      return out;
    }
    default:
      return overwritten(bytes, random, [0, bytes.length]);
  }
}

function overwritten(bytes: Buffer, random: Random, [begin, end]: readonly [number, number]): Buffer {
  const out = Buffer.from(bytes);
  if (begin >= end) return out;
  const at = begin + below(random, end - begin);
  const kind = below(random, 8);
  if (kind === 0) filling(Math.min(1 + below(random, 16), end - at), random).copy(out, at);
  else if (kind === 1) out[at] = below(random, 256);
  else if (kind === 2) out[at] = BYTES[below(random, BYTES.length)];
  else if (kind === 3) out[at] += random() < 0.5 ? 1 : 255;
  else out[at] ^= 1 << below(random, 8);
  return out;
}

function filling(length: number, random: Random): Buffer {
  const kind = below(random, 4);
  if (kind === 0) return Buffer.alloc(length, 0xff);
  if (kind === 1) return Buffer.alloc(length);
  return Buffer.from(Array.from({ length }, () => below(random, 256)));
}

/** Values that a field may have by mistake or on purpose. */
const ODD: readonly unknown[] = [
  ...[null, true, false, '', 'x', '__proto__', [], {}, [null], 0, -1, 0.5, 1e308, 2 ** 53, 1e21, -0],
  ...['\u2028', '../../etc/passwd', 'a'.repeat(5000), Array.from({ length: 50 }, () => 1)],
];

/** A JSON value with one to three of its parts replaced by something odd, taken out, or moved elsewhere; as text. */
export function mutateJson(value: unknown, random: Random): Buffer {
  const root = { value: structuredClone(value) };
  for (let left = 1 + below(random, 3); left > 0; left--) {
    const places: [parent: Record<string, unknown>, name: string][] = [];
    const collect = (parent: Record<string, unknown>) => {
      for (const [name, child] of Object.entries(parent)) {
        places.push([parent, name]);
        if (typeof child === 'object' && child !== null) collect(child as Record<string, unknown>);
      }
    };
    collect(root);
    const [parent, name] = places[below(random, places.length)];
    const kind = below(random, 6);
    if (kind === 0 && parent !== root) delete parent[name];
    else if (kind === 1) parent[`${name}x`] = structuredClone(parent[name]);
    else if (kind === 2) {
      const [from, other] = places[below(random, places.length)];
      parent[name] = structuredClone(from[other]);
    } else if (kind === 3 && typeof parent[name] === 'number')
      parent[name] *= [-1, 0, 1e6, 0.1, 1e300][below(random, 5)];
    else parent[name] = structuredClone(ODD[below(random, ODD.length)]);
  }
  let text = JSON.stringify(root.value) ?? '';
  // What JSON.stringify cannot write and a file can have.
  if (random() < 0.05) text = text.replace(/\{/, '{"seed":1,"seed":2,');
  if (random() < 0.05) text = '['.repeat(20_000) + text + ']'.repeat(20_000);
  if (random() < 0.05) text = text.replace(/:(-?\d)/, ':$1e999');
  return Buffer.from(text);
}
