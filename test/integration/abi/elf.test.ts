/** ELF's headers against the C library's elf.h. */
import t from 'tap';
import * as elf from '../../../src/abi/elf.ts';
import { compilerMissing, expectedLines, printConstants, printStruct, runC } from './c-program.ts';

const headers = ['elf.h'];
const skip = compilerMissing(headers);

t.test('elf.h: headers of both classes', { skip }, async (t) => {
  const layouts = {
    Elf32_Ehdr: elf.Elf32_Ehdr,
    Elf64_Ehdr: elf.Elf64_Ehdr,
    Elf32_Phdr: elf.Elf32_Phdr,
    Elf64_Phdr: elf.Elf64_Phdr,
    Elf64_Nhdr: elf.Elf_Nhdr,
  };
  const cases = Object.entries(layouts).map(([type, layout]) => ({
    name: type,
    layout,
    type,
    path: (field: string) => field,
  }));
  t.same(runC(headers, cases.map(printStruct).join('\n')), cases.flatMap(expectedLines));
});

t.test('elf.h: constants', { skip }, async (t) => {
  const constants = Object.entries(elf).filter(([name]) =>
    /^(E[IMT]_|ELF(CLASS|DATA)|PT_)/.test(name),
  );
  const output = runC(headers, printConstants(constants.map(([name]) => name)));
  t.same(
    output,
    constants.map(([name, value]) => `${name} ${value}`),
  );
});
