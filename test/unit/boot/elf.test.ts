/** ELF kernels: System V gABI "Object Files", "Program Loading"; Xen's elfnote.h. */
import t from 'tap';
import { BufferSource } from '../../../src/boot/byte-source.ts';
import { parseElf } from '../../../src/boot/elf.ts';
import { elfKernel, KERNEL_GPA, kernelCode } from '../../support/fixtures/kernel-image.ts';

const source = (bytes: Uint8Array): BufferSource => new BufferSource(bytes, 'kernel k');
const segment = { paddr: KERNEL_GPA, bytes: kernelCode(64), memsz: 128 };

t.test('segments, span, entry and PVH entry', async (t) => {
  const other = { paddr: KERNEL_GPA + 0x1000, bytes: kernelCode(32) };
  const image = parseElf(source(elfKernel({ segments: [other, segment] })));
  t.same(
    image.segments.map(({ paddr, filesz, memsz }) => [paddr, filesz, memsz]),
    [
      [KERNEL_GPA, 64, 128],
      [KERNEL_GPA + 0x1000, 32, 32],
    ],
  );
  t.same([image.start, image.end], [KERNEL_GPA, KERNEL_GPA + 0x1020]);
  t.equal(image.entry, KERNEL_GPA);
  t.equal(image.pvhEntry, KERNEL_GPA + 0x30);
  t.equal(parseElf(source(elfKernel({ pvhEntry: null }))).pvhEntry, undefined);
});

t.test('32 bits: the same, from the other layout', async (t) => {
  const other = { paddr: KERNEL_GPA + 0x1000, bytes: kernelCode(32) };
  const image = parseElf(source(elfKernel({ bits: 32, segments: [other, segment] })));
  t.equal(image.bits, 32);
  t.same(
    image.segments.map(({ paddr, filesz, memsz }) => [paddr, filesz, memsz]),
    [
      [KERNEL_GPA, 64, 128],
      [KERNEL_GPA + 0x1000, 32, 32],
    ],
  );
  t.same([image.start, image.end], [KERNEL_GPA, KERNEL_GPA + 0x1020]);
  t.equal(image.entry, KERNEL_GPA);
  t.equal(image.pvhEntry, KERNEL_GPA + 0x30);
  const top = { paddr: 0xffff_ff00, bytes: kernelCode(64), memsz: 0xffff_ffff };
  const far = parseElf(source(elfKernel({ bits: 32, segments: [top], pvhEntry: null })));
  t.equal(far.end, 0x1_ffff_feff, 'sums do not wrap at 4 GiB');
});

t.test('the PVH note: descriptors of 4 and 8 bytes, notes laid out by 4 and by 8', async (t) => {
  const pvhEntry = KERNEL_GPA + 0x30;
  for (const bits of [32, 64] as const) {
    for (const descsz of [4, 8]) {
      for (const noteAlignment of [4, 8] as const) {
        const image = parseElf(source(elfKernel({ bits, descsz, noteAlignment, pvhEntry })));
        t.equal(image.pvhEntry, pvhEntry, `${bits} bits, ${descsz} bytes, by ${noteAlignment}`);
      }
    }
    for (const noteAlign of [0, 1, 8]) {
      const image = parseElf(source(elfKernel({ bits, noteAlign, pvhEntry })));
      t.equal(image.pvhEntry, pvhEntry, `laid out by 4 in a segment aligned to ${noteAlign}`);
    }
    for (const descsz of [0, 2, 3, 5]) {
      t.equal(parseElf(source(elfKernel({ bits, descsz }))).pvhEntry, undefined, `${descsz} bytes`);
    }
  }
  const high = parseElf(source(elfKernel({ pvhEntry: 2 ** 32 + KERNEL_GPA })));
  t.equal(high.pvhEntry, 2 ** 32 + KERNEL_GPA, 'an upper half is not dropped');
});

t.test('what is no x86 ELF executable is refused in one line', async (t) => {
  const cases: [string, (view: DataView) => void][] = [
    ['EI_CLASS', (view) => view.setUint8(4, 3)],
    ['EI_CLASS 32 with an x86-64 machine', (view) => view.setUint8(4, 1)],
    ['EI_DATA', (view) => view.setUint8(5, 3)],
    ['big-endian', (view) => view.setUint8(5, 2)],
    ['e_type', (view) => view.setUint16(16, 1, true)],
    ['e_machine', (view) => view.setUint16(18, 183, true)],
    ['e_phentsize', (view) => view.setUint16(54, 32, true)],
    ['e_phnum 0', (view) => view.setUint16(56, 0, true)],
    ['e_phnum 65535', (view) => view.setUint16(56, 65535, true)],
    ['e_entry beyond 2^53', (view) => view.setBigUint64(24, 2n ** 60n, true)],
    ['p_paddr beyond 2^53', (view) => view.setBigUint64(64 + 24, 2n ** 64n - 1n, true)],
    ['p_filesz > p_memsz', (view) => view.setBigUint64(64 + 40, 1n, true)],
  ];
  for (const [name, spoil] of cases) {
    const file = elfKernel();
    spoil(new DataView(file.buffer));
    t.throws(() => parseElf(source(file)), { name: 'UsageError', code: 'E_NOT_A_KERNEL' }, name);
  }
  const named: [RegExp, (view: DataView) => void][] = [
    [/64-bit code for the processor AArch64/, (view) => view.setUint16(18, 183, true)],
    [/64-bit code for the processor number 4711/, (view) => view.setUint16(18, 4711, true)],
    [/64-bit code for the processor s390/, (view) => view.setUint16(18, 22) ?? view.setUint8(5, 2)],
    [/an object file/, (view) => view.setUint16(16, 1, true)],
    [/a core dump/, (view) => view.setUint16(16, 4, true)],
  ];
  for (const [message, spoil] of named) {
    const file = elfKernel();
    spoil(new DataView(file.buffer));
    t.throws(() => parseElf(source(file)), { code: 'E_NOT_A_KERNEL', message });
  }
  for (const [kind, name] of [
    [3, 'PT_INTERP'],
    [7, 'PT_TLS'],
  ] as const) {
    for (const pvhEntry of [null, KERNEL_GPA]) {
      const file = elfKernel({
        segments: [segment, { ...segment, paddr: 2 * KERNEL_GPA }],
        pvhEntry,
      });
      new DataView(file.buffer).setUint32(64 + 56, kind, true);
      const parse = (): unknown => parseElf(source(file));
      if (pvhEntry === null) t.throws(parse, /a program for an operating system/, name);
      else t.doesNotThrow(parse, `${name} in a kernel with a PVH note`);
    }
  }
  const overlapping = [segment, { ...segment, paddr: KERNEL_GPA + 127 }];
  t.throws(
    () => parseElf(source(elfKernel({ segments: overlapping }))),
    /segments overlap/,
    'overlapping segments',
  );
  t.throws(() => parseElf(source(elfKernel({ segments: [] }))), /nothing to load/, 'no segments');
});

t.test('a file that ends early is called truncated, with both lengths', async (t) => {
  const file = elfKernel();
  for (const length of [10, 63, 100, 1000, file.length - 1]) {
    t.throws(() => parseElf(source(file.subarray(0, length))), {
      code: 'E_TRUNCATED',
      message: /^kernel k is truncated: it needs \d+ bytes and has \d+; copy or install it again$/,
    });
  }
});
