/**
 * The tables of docs/options.md, made from the options' schemas and the comments of their types. What changed there
 * goes into the page with `node dist/test/option-tables.js --write`; a test holds them together.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import ts from 'typescript';
import { SMBIOS } from '../src/boot/smbios.ts';
import { DEVICE_TYPES, type MachineBackend } from '../src/machine/devices/device-types.ts';
import { BOOT, MACHINE } from '../src/machine/resolve-options.ts';
import { fieldsOf, type OptionField, type OptionSchema } from '../src/options/option-schema.ts';
import { RING } from '../src/virtio/device-type.ts';

export const PAGE = 'docs/options.md';
const [BEGIN, END] = ['<!-- tables -->\n', '<!-- end of tables -->\n'];

function valueText({ type, choices, details }: OptionField): string {
  if (type === 'flag') return details.on === true ? 'on (default) or off' : 'on or off (default)';
  if (type === 'choice') return choices.map((choice) => `\`${choice}\``).join(', ');
  if (type === 'strings') return 'all other keys';
  return details.expected ?? details.value?.toLowerCase() ?? 'text';
}

/** The public types, as a program that imports nodevmm has them. */
const program = ts.createProgram(['src/index.ts'], {
  ...ts.parseJsonConfigFileContent(
    ts.readConfigFile('tsconfig.json', ts.sys.readFile).config,
    ts.sys,
    '.',
  ).options,
  noEmit: true,
  incremental: false,
});
const checker = program.getTypeChecker();

function exportedType(name: string): ts.Type {
  const index = program.getSourceFile('src/index.ts');
  const module = index && checker.getSymbolAtLocation(index);
  const found = module && checker.getExportsOfModule(module).find((one) => one.name === name);
  if (found === undefined) throw new Error(`src/index.ts exports no ${name}`);
  const symbol = found.flags & ts.SymbolFlags.Alias ? checker.getAliasedSymbol(found) : found;
  return checker.getDeclaredTypeOfSymbol(symbol);
}

const machineType = exportedType('MachineOptions');

/** The types that an option may have; of a list, those of its elements. */
function typesOf(symbol: ts.Symbol): ts.Type[] {
  const type = checker.getNonNullableType(checker.getTypeOfSymbol(symbol));
  const element = checker.isArrayType(type)
    ? checker.getTypeArguments(type as ts.TypeReference)[0]
    : type;
  if (element === undefined) return [];
  return element.isUnion() ? element.types : [element];
}

/** What an option's comment says, in one line. */
function commentOf(types: readonly ts.Type[], [name = '', ...rest]: readonly string[]): string {
  const symbols = types.flatMap((type) => type.getProperty(name) ?? []);
  if (rest.length > 0) return symbols.length === 0 ? '' : commentOf(symbols.flatMap(typesOf), rest);
  const comments = symbols.map((symbol) => symbol.getDocumentationComment(checker));
  return ts.displayPartsToString(comments.find((parts) => parts.length > 0)).replace(/\s+/g, ' ');
}

const HEAD = '| command line | from code | value | what it is |\n| --- | --- | --- | --- |\n';

/** @param types those that have the schema's options, the most fitting one first */
function table(schema: OptionSchema, types: readonly ts.Type[], prefix = ''): string {
  const rows = fieldsOf(schema)
    .filter(({ path }) => prefix === 'ring.' || path[0] !== 'ring')
    .map((field) => {
      const key = field.type === 'strings' ? '*' : field.key;
      const needed = field.required ? ', required' : '';
      const cells = [
        `\`${key}\``,
        `\`${prefix}${field.path.join('.')}\``,
        `${valueText(field)}${needed}`,
      ];
      return `| ${[...cells, commentOf(types, field.path)].join(' | ')} |\n`;
    });
  return HEAD + rows.join('');
}

/** Options of the command line that are not made from the schema. */
const BY_HAND: Readonly<Record<string, string>> = {
  commandLine: '`--cmdline`, `--append`',
  trace: '`--trace`',
};

/** All options but devices and what has a table of its own. */
function machineTable(): string {
  const fields = new Map(
    [...fieldsOf(BOOT), ...fieldsOf(MACHINE)].map((field) => [field.path.join(), field]),
  );
  const others = new Set(['smbios', ...DEVICE_TYPES.map(({ key }) => key)]);
  const rows = machineType
    .getProperties()
    .filter(({ name }) => !others.has(name))
    .map((symbol) => {
      const { name } = symbol;
      const field = fields.get(name);
      const type = checker.getNonNullableType(checker.getTypeOfSymbol(symbol));
      const code = field ? `\`--${field.key}\`` : (BY_HAND[name] ?? '');
      const value = field
        ? valueText(field)
        : type.flags & ts.TypeFlags.Object
          ? 'object'
          : checker.typeToString(type);
      return `| ${code} | \`${name}\` | ${value} | ${commentOf([machineType], [name])} |\n`;
    });
  return HEAD + rows.join('');
}

/** The types of a backend's options, that with all of them first. */
function typesOfBackend(key: string, { options }: MachineBackend): ts.Type[] {
  const symbol = machineType.getProperty(key);
  if (symbol === undefined) throw new Error(`MachineOptions has no ${key}: see src/index.ts`);
  const missing = (type: ts.Type): number =>
    fieldsOf(options).filter(({ path: [name = ''] }) => type.getProperty(name) === undefined)
      .length;
  return typesOf(symbol).sort((a, b) => missing(a) - missing(b));
}

const isAsked = ({ selector }: MachineBackend): boolean => selector !== undefined;

function backendTitle(backend: MachineBackend): string {
  if (!isAsked(backend)) return '';
  const { option = '', value } = backend.selector ?? {};
  return `\nWith \`${option}${value === undefined ? '' : `: '${value}'`}\` (${backend.name}):\n`;
}

/** All tables, in Markdown. */
export function optionTables(): string {
  const devices = DEVICE_TYPES.map(({ cli, key, summary, number, backends }) => {
    const title = cli === undefined ? `\`${key}\`` : `\`${cli.option}\`, \`${key}\``;
    const tables = backends
      .filter(({ options }) => fieldsOf(options).some(({ path }) => path[0] !== 'ring'))
      .map(
        (backend) =>
          `${backendTitle(backend)}\n${table(backend.options, typesOfBackend(key, backend))}`,
      );
    const many = number === 'any' ? ', any number of them' : '';
    return `## ${title}\n\nFor ${summary}${many}.\n${tables.join('')}`;
  });
  return [
    `## The machine\n\n${machineTable()}`,
    ...devices,
    `## Ring features: \`--ring\`, and keys of each virtio device\n\n${table(RING, [exportedType('RingOptions')], 'ring.')}`,
    `## \`--smbios\`, \`smbios\`\n\n${table(SMBIOS, [exportedType('SmbiosOptions')])}`,
  ].join('\n');
}

/** The page as it has to be. */
export function optionPage(): string {
  const [before = '', rest = ''] = readFileSync(PAGE, 'utf8').split(BEGIN);
  return `${before}${BEGIN}\n${optionTables()}\n${END}${rest.split(END)[1] ?? ''}`;
}

if (process.argv[2] === '--write') writeFileSync(PAGE, optionPage());
