/** ELF kernels: System V gABI "Object Files", "Program Loading"; Xen's elfnote.h. */
import t from 'tap';
import { BufferSource } from '../../../src/boot/byte-source.ts';
import { parseElf } from '../../../src/boot/elf.ts';
import { elfKernel, KERNEL_GPA, kernelCode } from '../../support/kernel-image.ts';

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

t.test('what is no x86-64 ELF executable is refused in one line', async (t) => {
  const cases: [string, (view: DataView) => void][] = [
    ['EI_CLASS', (view) => view.setUint8(4, 1)],
    ['EI_DATA', (view) => view.setUint8(5, 2)],
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
