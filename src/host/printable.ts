/**
 * Text that a guest, a peer or a file had a part in, as it may be shown to a person. A terminal obeys
 * what is in it: escapes move the cursor, rewrite what stands there, or type for the person.
 */

/**
 * Everything that a terminal does not just show: control characters (C0, DEL, C1), format characters
 * (among them those that turn the direction of text), line and paragraph separators, lone surrogates.
 */
const NOT_SHOWN = /[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu;

/**
 * The text with each character that is not shown as `\x1b` or `\u{202e}`; line ends and tabs stay.
 * What it returns it leaves as it is.
 */
export function printable(text: string): string {
  return text.replace(/\r+\n/g, '\n').replace(NOT_SHOWN, (character) => {
    if (character === '\n' || character === '\t') return character;
    const code = character.codePointAt(0) ?? 0;
    const hex = code.toString(16);
    return code < 0x100 ? `\\x${hex.padStart(2, '0')}` : `\\u{${hex}}`;
  });
}
