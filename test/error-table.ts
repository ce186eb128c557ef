/**
 * The errors that src/ throws, as its syntax has them, and the table of docs/errors.md: codes and classes are found,
 * the rest of a row is written by hand. New codes go into the page with `node dist/test/error-table.js --write`; a
 * test holds the two together.
 */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import ts from 'typescript';

export const PAGE = 'docs/errors.md';
const [BEGIN, END] = ['<!-- table -->\n', '<!-- end of table -->\n'];
const CODE = /^E_[A-Z0-9_]+$/;

const FILES: readonly ts.SourceFile[] = readdirSync('src', { recursive: true, encoding: 'utf8' })
  .filter((file) => file.endsWith('.ts'))
  .map((file) => path.join('src', file))
  .map((file) =>
    ts.createSourceFile(file, readFileSync(file, 'utf8'), ts.ScriptTarget.Latest, true),
  );

function nodesOf(root: ts.Node): ts.Node[] {
  const nodes: ts.Node[] = [];
  const visit = (node: ts.Node): void => {
    nodes.push(node);
    ts.forEachChild(node, visit);
  };
  visit(root);
  return nodes;
}

const NODES: readonly ts.Node[] = FILES.flatMap(nodesOf);

/** Each class of errors, and the public one that it is or extends. */
const CLASSES: ReadonlyMap<string, string> = (() => {
  const classes = new Map<string, string>([['NodeVmmError', 'NodeVmmError']]);
  const own = 'src/host/errors.ts';
  for (let before = 0; before < classes.size; ) {
    before = classes.size;
    for (const node of NODES) {
      if (!ts.isClassDeclaration(node) || node.name === undefined) continue;
      const base = node.heritageClauses?.[0]?.types[0]?.expression.getText() ?? '';
      const kind = classes.get(base);
      if (kind === undefined) continue;
      const name = node.name.text;
      classes.set(name, node.getSourceFile().fileName === own ? name : kind);
    }
  }
  return classes;
})();

const classOf = (node: ts.Node): string | undefined =>
  ts.isNewExpression(node) ? CLASSES.get(node.expression.getText()) : undefined;

/** Compared or collected, not given to an error. */
function isAsked({ parent }: ts.Node): boolean {
  if (ts.isArrayLiteralExpression(parent)) return true;
  if (!ts.isBinaryExpression(parent)) return false;
  const { kind } = parent.operatorToken;
  return (
    kind === ts.SyntaxKind.EqualsEqualsEqualsToken ||
    kind === ts.SyntaxKind.ExclamationEqualsEqualsToken
  );
}

/** A code as text, `*` for what is filled in: `E_DISK_*`. */
function codeOf(node: ts.Node): string | undefined {
  if (ts.isStringLiteralLike(node)) return CODE.test(node.text) ? node.text : undefined;
  if (!ts.isTemplateExpression(node) || !node.head.text.startsWith('E_')) return undefined;
  return `${node.head.text}*`;
}

/** Where no class is near, options and paths are checked, which is the caller's business. */
function classNear(node: ts.Node): string {
  for (let at: ts.Node | undefined = node; at !== undefined; at = at.parent) {
    const found = classOf(at);
    if (found !== undefined) return found;
  }
  return codeOf(node) === 'E_INTERNAL' ? 'InternalError' : 'UsageError';
}

/** All codes of errors, with the classes of those that have them. */
export function thrownCodes(): Map<string, ReadonlySet<string>> {
  const codes = new Map<string, Set<string>>();
  for (const node of NODES) {
    const code = codeOf(node);
    if (code === undefined || isAsked(node)) continue;
    const classes = codes.get(code) ?? new Set();
    codes.set(code, classes.add(classNear(node)));
  }
  return codes;
}

/** The name that a function is called by. */
function nameOf(node: ts.Node): string | undefined {
  if (ts.isFunctionDeclaration(node)) return node.name?.text;
  if (!ts.isArrowFunction(node) || !ts.isVariableDeclaration(node.parent)) return undefined;
  return node.parent.name.getText();
}

/** Functions that make an error of a text that they are given. */
const MAKERS: ReadonlySet<string> = new Set(
  NODES.filter((node) => ts.isNewExpression(node) && classOf(node) !== undefined).flatMap(
    (node) => {
      for (let at = node.parent; at !== undefined; at = at.parent) {
        const name = nameOf(at);
        const parameters = ts.isFunctionLike(at) ? at.parameters : [];
        const used = nodesOf(node).map((part) => part.getText());
        if (name !== undefined && parameters.some((one) => used.includes(one.name.getText()))) {
          return [name];
        }
      }
      return [];
    },
  ),
);

const pieces = (node: ts.Node): string[] =>
  nodesOf(node).flatMap((part) =>
    ts.isStringLiteralLike(part) ||
    part.kind === ts.SyntaxKind.TemplateHead ||
    part.kind === ts.SyntaxKind.TemplateMiddle ||
    part.kind === ts.SyntaxKind.TemplateTail
      ? [(part as ts.LiteralLikeNode).text]
      : [],
  );

/** Texts of errors in which the remedy is not apart from the problem, by file and line. */
export function mixedTexts(): string[] {
  return NODES.flatMap((node) => {
    const made =
      classOf(node) !== undefined ||
      (ts.isCallExpression(node) && MAKERS.has(node.expression.getText()));
    const given = made ? ((node as ts.CallExpression | ts.NewExpression).arguments ?? []) : [];
    const mixed = given.some((one) => pieces(one).some((piece) => piece.includes('; ')));
    if (!mixed) return [];
    const file = node.getSourceFile();
    const { line } = file.getLineAndCharacterOfPosition(node.getStart());
    return [`${file.fileName}:${line + 1}: ${node.getText()}`];
  });
}

/** Constructions of errors, and calls of functions that make one. */
export function countMakers(): { readonly constructed: number; readonly functions: number } {
  const constructed = NODES.filter((node) => classOf(node) !== undefined).length;
  return { constructed, functions: MAKERS.size };
}

const ROW = /^\| `(E_[A-Z0-9_*]+)` \| [^|]* \| (.*) \| (.*) \|$/gm;

/** What is written by hand, by code: the meaning, and what to do. */
export function handWritten(): Map<string, readonly [string, string]> {
  const page = readFileSync(PAGE, 'utf8');
  return new Map(
    [...page.matchAll(ROW)].map(([, code = '', meaning = '', advice = '']) => [
      code,
      [meaning, advice],
    ]),
  );
}

/** The page as it has to be. */
export function errorPage(): string {
  const [before = '', rest = ''] = readFileSync(PAGE, 'utf8').split(BEGIN);
  const texts = handWritten();
  const rows = [...thrownCodes()]
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([code, classes]) => {
      const cells = [
        `\`${code}\``,
        [...classes].sort().join(', '),
        ...(texts.get(code) ?? ['', '']),
      ];
      return `| ${cells.join(' | ')} |\n`;
    });
  const head = '| code | class | meaning | what to do |\n| --- | --- | --- | --- |\n';
  return `${before}${BEGIN}\n${head}${rows.join('')}\n${END}${rest.split(END)[1] ?? ''}`;
}

if (process.argv[2] === '--write') writeFileSync(PAGE, errorPage());
