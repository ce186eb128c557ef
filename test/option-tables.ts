/**
 * The tables of docs/options.md, made from the options' schemas. What changed there goes into the page
 * with `node dist/test/option-tables.js --write`; a test holds the two together.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { SMBIOS } from '../src/boot/smbios.ts';
import { DEVICE_TYPES, type MachineBackend } from '../src/machine/devices/device-types.ts';
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

function table(schema: OptionSchema, prefix: string): string {
  const rows = fieldsOf(schema)
    .filter(({ path }) => prefix === 'ring.' || path[0] !== 'ring')
    .map((field) => {
      const key = field.type === 'strings' ? '*' : field.key;
      const needed = field.required ? ', required' : '';
      return `| \`${key}\` | \`${prefix}${field.path.join('.')}\` | ${valueText(field)}${needed} |\n`;
    });
  return ['| command line | from code | value |\n| --- | --- | --- |\n', ...rows].join('');
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
      .map((backend) => `${backendTitle(backend)}\n${table(backend.options, '')}`);
    const many = number === 'any' ? ', any number of them' : '';
    return `## ${title}\n\nFor ${summary}${many}.\n${tables.join('')}`;
  });
  return [
    ...devices,
    `## Ring features: \`--ring\`, and keys of each virtio device\n\n${table(RING, 'ring.')}`,
    `## \`--smbios\`, \`smbios\`\n\n${table(SMBIOS, '')}`,
  ].join('\n');
}

/** The page as it has to be. */
export function optionPage(): string {
  const [before = '', rest = ''] = readFileSync(PAGE, 'utf8').split(BEGIN);
  return `${before}${BEGIN}\n${optionTables()}\n${END}${rest.split(END)[1] ?? ''}`;
}

if (process.argv[2] === '--write') writeFileSync(PAGE, optionPage());
