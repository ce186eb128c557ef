/** Boot structures against the installed kernel's asm/bootparam.h. */
import t from 'tap';
import * as boot from '../../../src/abi/linux-boot.ts';
import { compilerMissing, expectedLines, printConstants, printStruct, runC } from './c-program.ts';

const headers = ['asm/bootparam.h'];
const skip = compilerMissing(headers);

t.test('asm/bootparam.h: setup_header and boot_e820_entry', { skip }, async (t) => {
  const cases = [
    { name: 'setup_header', layout: boot.setup_header },
    { name: 'boot_e820_entry', layout: boot.boot_e820_entry },
  ].map(({ name, layout }) => ({
    name,
    layout,
    type: `struct ${name}`,
    path: (field: string) => (field === 'size_' ? 'size' : field),
  }));
  t.same(runC(headers, cases.map(printStruct).join('\n')), cases.flatMap(expectedLines));
});

t.test('asm/bootparam.h: places in the zero page', { skip }, async (t) => {
  const places: [string, number][] = [
    ['acpi_rsdp_addr', boot.BOOT_PARAMS_ACPI_RSDP_ADDR],
    ['e820_entries', boot.BOOT_PARAMS_E820_ENTRIES],
    ['e820_table', boot.BOOT_PARAMS_E820_TABLE],
    ['hdr', boot.SETUP_HEADER_OFFSET],
  ];
  const body = places
    .map(([field]) => `printf("%zu\\n", offsetof(struct boot_params, ${field}));`)
    .concat('printf("%zu\\n", sizeof(struct boot_params));');
  const ours = [...places.map(([, offset]) => offset), boot.BOOT_PARAMS_SIZE];
  t.same(runC(headers, body.join('\n')).map(Number), ours);
});

t.test('asm/bootparam.h: constants', { skip }, async (t) => {
  const ours = new Map(Object.entries(boot));
  const names = ['XLF_KERNEL_64', 'E820_MAX_ENTRIES_ZEROPAGE'];
  const output = runC(headers, printConstants(names));
  t.same(
    output,
    names.map((name) => `${name} ${ours.get(name)}`),
  );
});
