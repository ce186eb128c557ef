/** `nodevmm doctor`: what this host offers, in one table. */
import { type DoctorRow, doctor } from '../machine/doctor.ts';
import type { RegisterCommand } from './exit-status.ts';
import { columns, remaining, wrap } from './terminal/text-table.ts';

const NARROWEST = 30;
const DEFAULT_WIDTH = 100;
const STATUS_WIDTH = 'missing'.length;
/** With less room for the last two columns, they are stacked. */
const SIDE_BY_SIDE = 56;

/** The report in readable form, as lines of at most `width` characters (at least 30). */
export function doctorTable(rows: readonly DoctorRow[], width: number): string[] {
  const wide = Math.max(NARROWEST, width);
  const nameWidth = Math.max(...rows.map(({ what }) => what.length));
  const rest = remaining(wide, [STATUS_WIDTH, nameWidth]);
  const indent = wide - rest;
  if (rest < SIDE_BY_SIDE) return rows.flatMap((row) => stacked(row, wide));
  const found = Math.ceil((rest - 2) * 0.55);
  const widths = [STATUS_WIDTH, nameWidth, found, rest - 2 - found];
  const head = columns(['status', 'what', 'found', 'enables'], widths);
  const body = rows.flatMap((row) => {
    const cells = columns([row.status, row.what, row.found, row.enables], widths);
    if (row.remedy === '') return cells;
    const advice = wrap(`get it: ${row.remedy}`, rest);
    return [...cells, ...advice.map((line) => ' '.repeat(indent) + line)];
  });
  return [...head, ...body];
}

const INDENT = '  ';

function stacked({ status, what, found, enables, remedy }: DoctorRow, width: number): string[] {
  const below = [`found: ${found}`, `enables: ${enables}`];
  if (remedy !== '') below.push(`get it: ${remedy}`);
  return [
    `${what}: ${status}`,
    ...below.flatMap((text) => wrap(text, width - INDENT.length)).map((line) => INDENT + line),
  ];
}

const EXAMPLES = `
Examples:
  nodevmm doctor          what works here, and how to get the rest
  nodevmm doctor --json   the same for programs`;

/** Adds `doctor`. Missing features are not a failure. */
export const registerDoctorCommand: RegisterCommand = (program, finish) => {
  program
    .command('doctor')
    .description('what this host supports: KVM, devices, limits, packages')
    .option('--json', 'print an array of {what, status, found, enables, remedy}')
    .addHelpText('after', EXAMPLES)
    .action(({ json }: { json?: boolean }) => {
      const rows = doctor();
      const width = process.stdout.columns ?? DEFAULT_WIDTH;
      const text = json === true ? [JSON.stringify(rows, null, 2)] : doctorTable(rows, width);
      process.stdout.write(`${text.join('\n')}\n`);
      finish(0);
    });
};
