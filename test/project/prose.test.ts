/** Comments and documentation avoid phrases that are not idiomatic English; see CONTRIBUTING.md. */
import { readdirSync, readFileSync } from 'node:fs';
import t from 'tap';

const PHRASES = [
  ...['as ever', 'lets? go of', 'in place of', 'whoever', '(goes|went) on', 'cannot be had'],
  ...['by order', 'tells', 'told', 'hears?', 'heard', 'somebody', 'a person', 'the person'],
  ...[
    'the other one',
    'anew',
    'it stands',
    'sees to',
    'beside',
    'for ever',
    'once more',
    'is said',
  ],
  ...['(was|were) asked for', 'takes the lab', 'how-manieth'],
];
const DENIED = new RegExp(`\\b(${PHRASES.join('|')})\\b`, 'i');
/** Also of tests: titles and messages of assertions. */
const TITLE = /\bt\.\w+\(|^\s*['"`].*['"`],$/;
const COMMENT = /^\s*(\/\*\*?|\*|\/\/)(?= |$)|[;,{}()] \/\/ /;

const filesOf = (folder: string, ending: string): string[] =>
  readdirSync(folder, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith(ending))
    .map((file) => `${folder}/${file}`);

function denied(files: readonly string[], isProse: (line: string) => boolean): string[] {
  return files.flatMap((file) =>
    readFileSync(file, 'utf8')
      .split('\n')
      .filter((line) => isProse(line) && DENIED.test(line))
      .map((line) => `${file}: ${line}`),
  );
}

t.test('comments', async (t) => {
  const files = [...filesOf('src', '.ts'), ...filesOf('bench', '.ts')];
  const found = denied(files, (line) => COMMENT.test(line));
  t.same(found, []);
});

t.test('tests', async (t) => {
  const files = filesOf('test', '.ts').filter((file) => !/bench|prose/.test(file));
  const found = denied(files, (line) => COMMENT.test(line) || TITLE.test(line));
  t.same(found, []);
});

t.test('documentation', async (t) => {
  const found = denied(['README.md', ...filesOf('docs', '.md')], () => true);
  t.same(found, []);
});
