/** Names and paths as they may be shown: nothing in them acts on a terminal or breaks a line. */

/** What ends a line, moves the cursor or changes the direction of the text: C0, DEL, C1, the separators of Unicode, and its directional marks. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const UNPRINTABLE = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;
const SHORT: { readonly [character: string]: string } = { '\n': '\\n', '\r': '\\r', '\t': '\\t' };

/** A name or a path for one line of a message or of a terminal: characters that would do something there stand as `\n`, `\u001b`. */
export function printable(text: string): string {
  return text.replace(
    UNPRINTABLE,
    (character) => SHORT[character] ?? `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
}
