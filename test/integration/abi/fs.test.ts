/** Structs and constants of FUSE and of file system calls, and errno, against the kernel headers. */
import t from 'tap';
import * as errno from '../../../src/abi/errno.ts';
import * as files from '../../../src/abi/files.ts';
import * as fuse from '../../../src/abi/fuse.ts';
import {
  compilerMissing,
  expectedLines,
  printConstants,
  printStruct,
  runC,
  type StructCase,
} from './c-program.ts';

const headers = [
  'linux/errno.h',
  'linux/fuse.h',
  'linux/openat2.h',
  'linux/virtio_fs.h',
  'linux/stat.h',
  'linux/fs.h',
  'asm/statfs.h',
];

/** Members that the header calls `size`, or nests. */
const path = (field: string): string =>
  field
    .replace(/_$/, '')
    .replace('mtime_reserved', 'stx_mtime.__reserved')
    .replace(/^([abcm]time)_n?sec$/, (all, time: string) =>
      all.endsWith('nsec') ? `stx_${time}.tv_nsec` : `stx_${time}.tv_sec`,
    );

/** The header's may be longer: drivers send what fields the version has that they know. */
const SHORTER = ['fuse_init_in'];
const structs = Object.entries(fuse).filter(([name]) => name.startsWith('fuse_'));
const cases: StructCase[] = [
  ...structs.map(([name, layout]) => ({
    name,
    layout: layout as { readonly size: number },
    type: `struct ${name}`,
    path,
  })),
  { name: 'config', layout: fuse.virtio_fs_config, type: 'struct virtio_fs_config', path },
  { name: 'open_how', layout: files.open_how, type: 'struct open_how', path },
  { name: 'statfs', layout: files.statfs, type: 'struct statfs', path },
  { name: 'statx', layout: files.statx, type: 'struct statx', path },
];

t.test("offsets and sizes are the C compiler's", { skip: compilerMissing(headers) }, async (t) => {
  const wanted = (line: string): boolean =>
    !/^statx \d+$/.test(line) && !SHORTER.some((name) => line.startsWith(`${name} `));
  const printed = runC(headers, cases.map(printStruct).join('\n')).filter(wanted);
  t.same(printed, cases.flatMap(expectedLines).filter(wanted));
});

t.test('so are constants', { skip: compilerMissing(headers) }, async (t) => {
  const constants = Object.entries({ ...errno, ...fuse, ...files }).filter(
    ([, value]) => typeof value === 'number',
  );
  // Opcodes are members of an enumeration, which the preprocessor does not know.
  const opcodes = constants.filter(([name, value]) => /^FUSE_[A-Z0-9]+$/.test(name) && value !== 0);
  const names = opcodes.map(([name]) => name);
  const wanted = constants.map(([name, value]) => `${name} ${value}`);
  const printed = [
    ...runC(headers, printConstants(constants.map(([name]) => name))),
    ...runC(headers, names.map((name) => `printf("${name} %d\\n", ${name});`).join('\n')),
  ];
  t.ok(printed.length > 60 + Object.keys(errno).length, `${printed.length} constants`);
  for (const line of printed) t.ok(wanted.includes(line), line);
});
