/** The setup header: Linux Documentation/arch/x86/boot.rst, "Details of Header Fields". */
import t from 'tap';
import { BufferSource } from '../../../src/boot/byte-source.ts';
import { parseBzImage } from '../../../src/boot/kernel-image.ts';
import { bzImage, type HeaderValues, KERNEL_GPA } from '../../support/fixtures/kernel-image.ts';

const source = (bytes: Uint8Array): BufferSource => new BufferSource(bytes, 'kernel k');
const parse = (values: HeaderValues = {}) => parseBzImage(source(bzImage(undefined, values)));

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

t.test('no payload: the code is all there is', async (t) => {
  const image = parse({ payload_length: 0, payload_offset: 0 });
  t.equal(image.payloadSize, 0);
  t.ok(image.codeSize > 0);
});

t.test('protocol versions', async (t) => {
  const old = { code: 'E_NOT_A_KERNEL', message: /boot protocol 2\.07 is older than 2\.08/ };
  t.throws(() => parse({ version: 0x207 }), old, 'payload: 2.08');
  t.match(parse({ version: 0x209 }), { prefAddress: 0x10_0000, initSize: 0 }, 'init_size: 2.10');
  t.equal(parse({ pref_address: 0 }).prefAddress, 0x10_0000, 'no preference');
  t.equal(parse({ version: 0x208 }).entry64, false, 'xloadflags: 2.12');
  t.equal(parse({ version: 0x20c }).entry64, true);
  t.equal(parse({ xloadflags: 0 }).entry64, false);
});

t.test('damaged headers are refused', async (t) => {
  const cases: HeaderValues[] = [
    { boot_flag: 0 },
    { loadflags: 0 },
    { payload_length: 7 },
    { payload_length: 0, syssize: 0 },
  ];
  for (const values of cases) {
    t.throws(() => parse(values), { name: 'UsageError', code: 'E_NOT_A_KERNEL' });
  }
  const truncated: HeaderValues[] = [
    { payload_length: 0xffff_ffff },
    { payload_offset: 0xffff_ffff },
    { setup_sects: 255, payload_length: 16 },
    { payload_length: 0, syssize: 0x10_0000 },
    { payload_length: 0, syssize: 0xffff_ffff },
  ];
  for (const values of truncated) {
    t.throws(() => parse(values), { name: 'UsageError', code: 'E_TRUNCATED' });
  }
});
