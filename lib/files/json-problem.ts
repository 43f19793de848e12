/** Finds in JSON what JSON.parse lets pass and no file of ours has: a key that an object has twice, of which the last one counts, and endless nesting. */

import { printable } from '../native/printable.js';

/** Whoever walks over more than this by recursion runs out of stack sooner or later. */
const MAX_DEPTH = 256;

/** What a JSON text has to be beyond JSON, for messages. */
export const SOUND_JSON = `JSON that names everything once and is nested at most ${MAX_DEPTH} deep`;

/**
 * The first thing that is wrong, as the end of "Expected … to be JSON that …, received"; undefined where all is well.
 *
 * @param text that JSON.parse has accepted
 */
export function jsonProblem(text: string): string | undefined {
  // The keys of each object that is open; undefined for an array.
  const open: (Set<string> | undefined)[] = [];
  for (let at = 0; at < text.length; at++) {
    const character = text[at];
    if (character === '"') {
      const begin = at;
      for (at++; text[at] !== '"'; at++) if (text[at] === '\\') at++;
      // Whether it is a key is known at the colon; long values are not worth a copy.
      const keys = open.at(-1);
      if (keys === undefined || !isKey(text, at + 1)) continue;
      // Two spellings of a key, one with escapes, are the same.
      const key: string = JSON.parse(text.slice(begin, at + 1));
      if (keys.has(key)) return `${printable(JSON.stringify(key))} twice`;
      keys.add(key);
    } else if (character === '{' || character === '[') {
      open.push(character === '{' ? new Set() : undefined);
      if (open.length > MAX_DEPTH) return 'more';
    } else if (character === '}' || character === ']') open.pop();
  }
  return undefined;
}

function isKey(text: string, after: number): boolean {
  let at = after;
  while (text[at] === ' ' || text[at] === '\n' || text[at] === '\r' || text[at] === '\t') at++;
  return text[at] === ':';
}
