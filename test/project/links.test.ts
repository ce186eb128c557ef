/** Links in documentation lead somewhere, and the files that it names exist. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';

const PAGES = [
  ...['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md'],
  ...readdirSync('docs')
    .filter((file) => file.endsWith('.md'))
    .map((file) => `docs/${file}`),
];

/** The anchors that GitHub gives a page's headings. */
const anchorsOf = (page: string): string[] =>
  [...readFileSync(page, 'utf8').matchAll(/^#+ (.*)$/gm)].map(([, heading = '']) =>
    heading
      .toLowerCase()
      .replace(/[^\w\- ]/g, '')
      .replaceAll(' ', '-'),
  );

const isBroken = (page: string, link: string): boolean => {
  const [file = '', anchor] = link.split('#');
  const target = file === '' ? page : path.join(path.dirname(page), file);
  return !existsSync(target) || (anchor !== undefined && !anchorsOf(target).includes(anchor));
};

t.test('links', async (t) => {
  for (const page of PAGES) {
    const links = [...readFileSync(page, 'utf8').matchAll(/\]\(([^)]+)\)/g)]
      .map(([, link = '']) => link)
      .filter((link) => !link.startsWith('https:'));
    t.same(
      links.filter((link) => isBroken(page, link)),
      [],
      page,
    );
  }
});

t.test('files', async (t) => {
  // The changelog names files that are gone; x.ts stands for any file.
  for (const page of PAGES.filter((page) => page !== 'CHANGELOG.md')) {
    const named = [
      ...readFileSync(page, 'utf8').matchAll(/`((?:src|test|bench|guests|docs)\/[\w./-]*)`/g),
    ].map(([, file = '']) => file);
    t.same(
      named.filter((file) => !existsSync(file) && path.basename(file).split('.')[0] !== 'x'),
      [],
      page,
    );
  }
});
