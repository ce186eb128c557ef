/** The setup header: Linux Documentation/arch/x86/boot.rst, "Details of Header Fields". */
import t from 'tap';
import { BufferSource } from '../../../src/boot/byte-source.ts';
import { kernelKind, parseBzImage } from '../../../src/boot/kernel-image.ts';
import { bzImage, elfKernel, type HeaderValues, KERNEL_GPA } from '../../support/kernel-image.ts';

const source = (bytes: Uint8Array): BufferSource => new BufferSource(bytes, 'kernel k');
const parse = (values: HeaderValues = {}) => parseBzImage(source(bzImage(undefined, values)));

t.test('kinds of images', async (t) => {
  t.equal(kernelKind(source(elfKernel())), 'elf');
  t.equal(kernelKind(source(bzImage())), 'bzimage');
  for (const bytes of [new Uint8Array(0), new Uint8Array(3), new Uint8Array(10_000).fill(65)]) {
    t.throws(() => kernelKind(source(bytes)), {
      name: 'UsageError',
      code: 'E_NOT_A_KERNEL',
      message:
        'kernel k is not a kernel: it is neither a bzImage nor ELF; name a vmlinuz or vmlinux',
    });
  }
});

t.test('fields of a sound header', async (t) => {
  const image = parse();
  t.match(image, {
    version: 0x20f,
    codeOffset: 4 * 512,
    payloadOffset: 4 * 512 + 0x2cc,
    commandLineSize: 2047,
    initrdAddrMax: 0x7fff_ffff,
    prefAddress: KERNEL_GPA,
    initSize: 0x40_0000,
    entry64: true,
  });
  t.equal(image.header[0], 3, 'the header starts with setup_sects');
  t.equal(image.header.length, 0x26c - 0x1f1, 'and ends where the jump at 0x200 leads');
});

t.test('setup_sects 0 means 4', async (t) => {
  const padded = new Uint8Array(20_000);
  padded.set(bzImage(undefined, { setup_sects: 0, payload_length: 16 }));
  t.equal(parseBzImage(source(padded)).codeOffset, 5 * 512);
});

t.test('protocol versions', async (t) => {
  t.throws(() => parse({ version: 0x207 }), { code: 'E_NOT_A_KERNEL' }, 'payload: 2.08');
  t.equal(parse({ version: 0x208 }).entry64, false, 'xloadflags: 2.12');
  t.equal(parse({ version: 0x20c }).entry64, true);
  t.equal(parse({ xloadflags: 0 }).entry64, false);
});

t.test('damaged headers are refused', async (t) => {
  const cases: HeaderValues[] = [{ boot_flag: 0 }, { loadflags: 0 }, { payload_length: 7 }];
  for (const values of cases) {
    t.throws(() => parse(values), { name: 'UsageError', code: 'E_NOT_A_KERNEL' });
  }
  const truncated: HeaderValues[] = [
    { payload_length: 0xffff_ffff },
    { payload_offset: 0xffff_ffff },
    { setup_sects: 255, payload_length: 16 },
  ];
  for (const values of truncated) {
    t.throws(() => parse(values), { name: 'UsageError', code: 'E_TRUNCATED' });
  }
});
