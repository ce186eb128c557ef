/** HTML and SVG as text. */

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

/** Text escaped for an element or a quoted attribute. */
export function escapeText(text: string): string {
  return text.replace(/[&<>"']/g, (character) => ENTITIES[character] ?? '');
}

/** An element. @param content markup, already escaped; undefined for an element without */
export function element(
  name: string,
  attributes: Readonly<Record<string, string | number>>,
  content?: string,
): string {
  const list = Object.entries(attributes)
    .map(([key, value]) => ` ${key}="${escapeText(String(value))}"`)
    .join('');
  return content === undefined ? `<${name}${list}/>` : `<${name}${list}>${content}</${name}>`;
}

/**
 * A page.
 * @param content of its body, already escaped
 * @param nonce that its style is allowed by (Content-Security-Policy), if it needs one
 */
export function htmlDocument(
  title: string,
  style: string,
  content: readonly string[],
  nonce?: string,
): string {
  const head = [
    '<meta charset="utf-8">',
    '<meta name="viewport" content="width=device-width, initial-scale=1">',
    '<meta name="color-scheme" content="light dark">',
    element('title', {}, escapeText(title)),
    element('style', nonce === undefined ? {} : { nonce }, style),
  ];
  const page = [element('head', {}, head.join('\n')), element('body', {}, content.join('\n'))];
  return `<!doctype html>\n${element('html', { lang: 'en' }, page.join('\n'))}\n`;
}
