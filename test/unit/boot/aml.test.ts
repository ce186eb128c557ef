/** ACPI Machine Language: ACPI 6.5 §20.2, and resource descriptors, §6.4. */
import t from 'tap';
import * as aml from '../../../src/boot/aml.ts';
import { pciMmio64Window } from '../../../src/boot/dsdt.ts';

const GiB = 2 ** 30;

t.test('§20.2.2 names', async (t) => {
  const text = (path: string): string => String.fromCharCode(...aml.nameString(path));
  t.equal(text('RTC'), 'RTC_');
  t.equal(text('\\_S5'), '\\_S5_');
  t.equal(text('\\_SB.PCI0'), '\\\x2e_SB_PCI0');
  t.equal(text('\\_SB.PCI0.ISA'), '\\\x2f\x03_SB_PCI0ISA_');
  for (const bad of ['', 'abcd', 'ABCDE', '1ABC', 'A..B']) {
    t.throws(() => aml.nameString(bad), { name: 'InternalError' }, bad);
  }
});

t.test('§20.2.3 integers in their shortest form, EISA ids', async (t) => {
  t.same(aml.integer(0), [0]);
  t.same(aml.integer(1), [1]);
  t.same(aml.integer(0xff), [0x0a, 0xff]);
  t.same(aml.integer(0x100), [0x0b, 0, 1]);
  t.same(aml.integer(0xffff_ffff), [0x0c, 255, 255, 255, 255]);
  t.same(aml.integer(2 ** 40), [0x0e, 0, 0, 0, 0, 0, 1, 0, 0]);
  t.same(aml.eisaId('PNP0A08'), [0x0c, 0x41, 0xd0, 0x0a, 0x08]);
});

t.test('§20.2.4 PkgLength counts itself and takes 1 to 3 bytes here', async (t) => {
  const lengthOf = (bytes: number): number[] => {
    const contents = Array.from({ length: bytes }, () => 0xaa);
    // DataRefObjects of one byte each after the element count.
    return [...aml.packageOf(contents)].slice(1, 4);
  };
  t.same(lengthOf(61).slice(0, 1), [63]);
  t.same(lengthOf(62).slice(0, 2), [0x40 | (65 % 16), 65 >> 4]);
  t.same(lengthOf(4092).slice(0, 2), [0x40 | (4095 % 16), 4095 >> 4]);
  t.same(lengthOf(4093), [0x80 | (4097 % 16), (4097 >> 4) % 256, 4097 >> 12]);
});

t.test('§20.2.5 terms', async (t) => {
  t.same(aml.returnValue([1]), [0xa4, 1]);
  t.same(
    aml.method('_STA', 0, aml.returnValue([1])),
    [0x14, 8, 0x5f, 0x53, 0x54, 0x41, 0, 0xa4, 1],
  );
  t.same(aml.buffer([7, 8]), [0x11, 5, 0x0a, 2, 7, 8]);
});

t.test('§19.6.143 ToUUID: three little-endian fields, the rest as written', async (t) => {
  const bytes = [...aml.uuid('00112233-4455-6677-8899-aabbccddeeff')].slice(-16);
  t.equal(Buffer.from(bytes).toString('hex'), '33221100554477668899aabbccddeeff');
  for (const bad of ['', '00112233-4455-6677-8899-aabbccddeef', 'g'.repeat(36)]) {
    t.throws(() => aml.uuid(bad), { name: 'InternalError' }, bad);
  }
});

t.test('§6.4 resource descriptors', async (t) => {
  t.same(aml.ioPorts({ base: 0x3f8, size: 8 }), [0x47, 1, 0xf8, 3, 0xf8, 3, 1, 8]);
  t.same(aml.edgeInterrupt(4), [0x89, 6, 0, 3, 1, 4, 0, 0, 0]);
  t.equal(aml.memoryWindow64({ base: 0, size: 1 }).length, 3 + 43);
  t.equal(aml.memoryWindow32({ base: 0, size: 1 }).length, 3 + 23);
  t.equal(aml.busNumbers({ base: 0, size: 1 }).length, 3 + 13);
});

t.test('the window for 64-bit BARs lies above RAM and below the end of addresses', async (t) => {
  t.same(pciMmio64Window(GiB, 40), { base: 64 * GiB, size: 64 * GiB });
  t.same(pciMmio64Window(64 * GiB, 40), { base: 128 * GiB, size: 64 * GiB });
  t.same(pciMmio64Window(GiB, 36), { base: 32 * GiB, size: 32 * GiB });
  t.same(pciMmio64Window(63 * GiB, 36), undefined);
  t.same(pciMmio64Window(5 * GiB, 33), { base: 6 * GiB, size: 2 * GiB });
});
