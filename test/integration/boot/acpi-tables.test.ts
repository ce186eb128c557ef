/** ACPI 6.5 tables: structure by our own reading, and syntax by Intel's compiler. */
import { spawnSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { setGenerationId, wakingVector, writeAcpiTables } from '../../../src/boot/acpi-tables.ts';
import { GENERATION_ID_GPA } from '../../../src/boot/boot-layout.ts';
import { type ViotOptions, viotBody } from '../../../src/boot/viot.ts';
import { Ram } from '../../../src/memory/ram.ts';
import * as layout from '../../../src/platform/layout.ts';
import { testFolder } from '../../support/rigs/files.ts';

const MiB = 2 ** 20;
const HEADER_LENGTH = 36;

const mmioDevices = [0, 1].map((index) => ({
  address: 0xf000_0000 + 0x2000 * index,
  size: 0x2000,
  gsi: 20 + index,
}));

const viot: ViotOptions = {
  iommu: { kind: 'pci', bdf: 0x18 },
  endpoints: [
    { id: 8, place: { kind: 'pci', bdf: 8 } },
    { id: 0x1_0001, place: { kind: 'mmio', address: 0xf000_2000 } },
  ],
};

const generationId = Uint8Array.from({ length: 16 }, (_, at) => 0xf0 + at);

/** The tables as a guest finds them, by signature. */
function tables(cpus: number, maxCpus?: number): Map<string, Buffer> {
  using ram = new Ram(64 * MiB);
  const { memory } = ram;
  const options = {
    cpus,
    ramSize: memory.size,
    physicalAddressBits: 40,
    mmioDevices,
    fixedSlots: [1, 4],
    ...(maxCpus === undefined ? {} : { maxCpus }),
    viot,
    generationId,
  };
  const rsdpGpa = writeAcpiTables(memory, options);
  t.equal(writeAcpiTables(memory, options), rsdpGpa, 'again, for a reboot');

  const read = (gpa: number, length: number): Buffer => Buffer.from(memory.bytes(gpa, length));
  const table = (gpa: number): [string, Buffer] => {
    const bytes = read(gpa, memory.readU32(gpa + 4));
    return [bytes.toString('latin1', 0, 4), bytes];
  };
  const found = new Map([['RSDP', read(rsdpGpa, 36)]]);
  const [, xsdt] = table(memory.readU32(rsdpGpa + 24));
  found.set('XSDT', xsdt);
  for (let at = HEADER_LENGTH; at < xsdt.length; at += 8) {
    found.set(...table(Number(xsdt.readBigUInt64LE(at))));
  }
  found.set(...table(Number((found.get('FACP') as Buffer).readBigUInt64LE(140))));
  return found;
}

const found = tables(2, 4);
const get = (signature: string): Buffer => found.get(signature) ?? Buffer.alloc(0);
const sum = (bytes: Buffer): number => bytes.reduce((total, byte) => total + byte, 0) % 256;

t.test('§5.2.5.3 RSDP and §5.2.6 headers: signatures and checksums', async (t) => {
  t.equal(get('RSDP').toString('latin1', 0, 8), 'RSD PTR ');
  t.equal(get('RSDP')[15], 2, 'revision');
  t.equal(sum(get('RSDP').subarray(0, 20)), 0);
  t.same([...found.keys()].sort(), [
    'APIC',
    'DSDT',
    'FACP',
    'MCFG',
    'RSDP',
    'VIOT',
    'WAET',
    'XSDT',
  ]);
  for (const [signature, bytes] of found) t.equal(sum(bytes), 0, signature);
});

t.test('§5.2.9 FADT: PM1 blocks and the reset register in I/O space', async (t) => {
  const fadt = get('FACP');
  t.same([fadt[8], fadt[131]], [6, 5], 'version 6.5');
  const flags = fadt.readUInt32LE(112);
  t.notOk(flags & (1 << 20), 'not HW_REDUCED_ACPI: such a machine has no S3 in Linux');
  t.ok(flags & (1 << 10), 'RESET_REG_SUP');
  t.notOk(flags & ((1 << 4) | (1 << 5) | (1 << 6)), 'buttons and alarm are fixed events');
  t.equal(fadt.readUInt16LE(109) & 0b100111, 0b100, 'no VGA, no 8042, a CMOS clock, MSI');
  t.equal(fadt.readUInt16LE(46), layout.SCI_GSI);
  t.equal(fadt.readUInt32LE(48), 0, 'no SMI_CMD: always in ACPI mode');
  t.same([fadt.readUInt32LE(56), fadt.readUInt32LE(64)], [0x600, 0x604]);
  t.same([fadt[88], fadt[89]], [4, 2], 'lengths');
  t.equal(fadt[108], 0x32, 'the century');
  const registers: [number, number, number, number][] = [
    [116, layout.RESET_PORT, 8, 1],
    [148, layout.PM1_EVENT_PORT, 32, 2],
    [172, layout.PM1_CONTROL_PORT, 16, 2],
  ];
  for (const [at, port, bits, access] of registers) {
    t.same([...fadt.subarray(at, at + 4)], [1, bits, 0, access], 'system I/O space');
    t.equal(Number(fadt.readBigUInt64LE(at + 4)), port);
  }
  t.equal(fadt[128], layout.RESET_VALUE);
});

t.test('§5.2.10 FACS: on 64 bytes, and it names no waking vector at first', async (t) => {
  using ram = new Ram(16 * MiB);
  const { memory } = ram;
  const options = { cpus: 1, ramSize: memory.size, physicalAddressBits: 40, mmioDevices: [] };
  writeAcpiTables(memory, { ...options, generationId });
  const at = get('FACP').readUInt32LE(36);
  t.equal(at % 64, 0);
  t.equal(Buffer.from(memory.bytes(at, 4)).toString(), 'FACS');
  t.equal(memory.readU32(at + 4), 64);
  t.equal(memory.readU8(at + 32), 2, 'version');
  t.equal(wakingVector(memory), 0);
  memory.writeU32(at + 12, 0x9_a000);
  t.equal(wakingVector(memory), 0x9_a000);
});

t.test('the generation ID is where the DSDT says, in no table', async (t) => {
  using ram = new Ram(16 * MiB);
  const { memory } = ram;
  const options = { cpus: 1, ramSize: memory.size, physicalAddressBits: 40, mmioDevices: [] };
  writeAcpiTables(memory, { ...options, generationId });
  t.same(memory.bytes(GENERATION_ID_GPA, 16), generationId);
  setGenerationId(memory, new Uint8Array(16).fill(7));
  t.same(memory.bytes(GENERATION_ID_GPA, 16), new Uint8Array(16).fill(7));
  t.equal(GENERATION_ID_GPA % 8, 0);
});

t.test('§5.2.12 MADT: local APICs, I/O APIC, edge-triggered ISA interrupts, the SCI', async (t) => {
  for (const cpus of [1, 16]) {
    const madt = tables(cpus).get('APIC') ?? Buffer.alloc(0);
    t.equal(madt.readUInt32LE(36), layout.LOCAL_APIC_ADDRESS);
    const entries: Buffer[] = [];
    for (let at = 44; at < madt.length; at += madt[at + 1] as number) {
      entries.push(madt.subarray(at, at + (madt[at + 1] as number)));
    }
    const local = entries.filter((entry) => entry[0] === 0);
    t.same(
      local.map((entry) => [entry[3], entry.readUInt32LE(4)]),
      Array.from({ length: cpus }, (_, id) => [id, 1]),
    );
    const io = entries.filter((entry) => entry[0] === 1);
    t.same(
      io.map((entry) => [entry.readUInt32LE(4), entry.readUInt32LE(8)]),
      [[layout.IOAPIC_ADDRESS, 0]],
    );
    const overrides = entries.filter((entry) => entry[0] === 2);
    t.same(
      overrides.map((entry) => [entry[3], entry.readUInt32LE(4), entry.readUInt16LE(8)]),
      [
        [layout.COM1_GSI, layout.COM1_GSI, 5],
        [layout.GED_GSI, layout.GED_GSI, 5],
        [layout.RTC_GSI, layout.RTC_GSI, 5],
        [layout.SCI_GSI, layout.SCI_GSI, 13],
      ],
    );
  }
});

t.test('§5.2.12.2 CPUs that may come are capable of being online, and not enabled', async (t) => {
  const madt = get('APIC');
  const entries: Buffer[] = [];
  for (let at = 44; at < madt.length; at += madt[at + 1] as number) {
    entries.push(madt.subarray(at, at + (madt[at + 1] as number)));
  }
  t.same(
    entries.filter((entry) => entry[0] === 0).map((entry) => [entry[2], entry[3], entry[4]]),
    [
      [0, 0, 1],
      [1, 1, 1],
      [2, 2, 2],
      [3, 3, 2],
    ],
  );
});

t.test('PCI Firmware 3.2 §4.1.2 MCFG: ECAM of bus 0', async (t) => {
  const mcfg = get('MCFG');
  t.equal(Number(mcfg.readBigUInt64LE(44)), layout.PCI_ECAM_BASE);
  t.same([...mcfg.subarray(52, 56)], [0, 0, 0, 0], 'segment 0, buses 0 to 0');
  t.equal(mcfg.length, 60);
});

t.test('§5.2.34 VIOT: the IOMMU, and each device behind it', async (t) => {
  const table = get('VIOT');
  t.same([table.readUInt16LE(36), table.readUInt16LE(38)], [3, 48], 'nodes, from there');
  const node = (type: number, length: number, ...words: number[]): number[] => [
    ...[type, 0, length, 0],
    ...words.flatMap((word) => [word & 0xff, word >>> 8]),
  ];
  t.same([...table.subarray(48, 64)], node(3, 16, 0, 0x18, 0, 0, 0, 0));
  t.same([...table.subarray(64, 88)], node(1, 24, 8, 0, 0, 0, 8, 8, 48, 0, 0, 0));
  t.same([...table.subarray(88)], node(2, 24, 1, 1, 0x2000, 0xf000, 0, 0, 48, 0, 0, 0));
  const inMemory = viotBody({ iommu: { kind: 'mmio', address: 0xf000_0000 }, endpoints: [] });
  t.same(inMemory.slice(12), node(4, 16, 0, 0, 0, 0xf000, 0, 0));
});

const compiler = 'iasl';
const missing = spawnSync(compiler, ['-v']).error !== undefined;
const skip = missing ? 'iasl is not installed (acpica-tools)' : false;

t.test('iasl takes the tables apart and puts them together again', { skip }, async (t) => {
  const directory = testFolder(t);
  const run = (...args: string[]): string => {
    const { status, stdout, stderr } = spawnSync(compiler, args, { cwd: directory });
    t.equal(status, 0, `${args.join(' ')}\n${stdout}${stderr}`);
    return `${stdout}${stderr}`;
  };
  for (const [signature, bytes] of found) {
    // Compilers before 20210930 do not know VIOT.
    if (signature === 'RSDP' || signature === 'VIOT') continue;
    writeFileSync(join(directory, `${signature}.aml`), bytes);
    run('-d', `${signature}.aml`);
    t.match(run('-oa', '-p', 'again', `${signature}.dsl`), /0 Errors, 0 Warnings/, signature);
    const again = readFileSync(join(directory, 'again.aml'));
    // The compiler puts its own name and version at the end of the header, and adjusts the checksum.
    for (const copy of [again, bytes]) copy.fill(0, 28, HEADER_LENGTH)[9] = 0;
    t.same(again, bytes, `${signature} assembles to the same bytes`);
  }
  const dsdt = readFileSync(join(directory, 'DSDT.dsl'), 'latin1');
  for (const device of [
    'PNP0A08',
    'PNP0C02',
    'PNP0501',
    'PNP0B00',
    'ACPI0013',
    'QEMU0001',
    'VMGENCTR',
  ]) {
    t.ok(dsdt.includes(device), device);
  }
  t.match(dsdt, /OperationRegion \(EVTR, SystemIO, 0x060C, One\)/);
  t.match(dsdt, /Method \(_EVT, 1, Serialized\)[^}]*Notify \(\\_SB.VGEN, 0x80\)/);
  t.match(dsdt, /Name \(ADDR, Package \(0x02\)[^}]*0x000E0080/);
  t.match(dsdt, /Name \(\\_S3, Package \(0x04\)[^}]*One/);
  t.match(dsdt, /Name \(\\_S5, Package \(0x04\)[^}]*0x05/);
  t.match(dsdt, /OperationRegion \(HPCI, SystemIO, 0x0620, 0x0C\)/);
  t.match(dsdt, /PCIU, {3}32, \n\s*PCID, {3}32, \n\s*PCIE, {3}32/);
  const slots = [
    ...dsdt.matchAll(/Device \(S([0-9A-F]{2})\)\s*\{\s*Name \(_ADR, 0x00([0-9A-F]{6})\)/g),
  ];
  t.same(
    slots.map(([, slot = '', address = '']) => [slot, address]),
    Array.from({ length: 32 }, (_, slot) => slot.toString(16).toUpperCase().padStart(2, '0'))
      .filter((slot) => !['00', '01', '04'].includes(slot))
      .map((slot) => [slot, `${slot}0000`]),
    'every slot whose device does not stay',
  );
  t.match(dsdt, /Name \(_SUN, 0x1F\).*?Method \(_EJ0, 1, [^}]*?PCIE = 0x80000000/s);
  t.match(
    dsdt,
    /Local0 & 0x08[^}]*?Notify \(S03, One\)[^}]*?\}[^}]*?Local1 & 0x08[^}]*?Notify \(S03, 0x03\)/,
  );
  t.match(dsdt, /If \(\(Local0 & 0x10\)\)\s*\{\s*\\_SB.PCI0.PCHP \(\)/);
  t.equal(dsdt.split('"ACPI0007"').length, 5);
  const processors = dsdt.split(/Device \(C\d{3}\)/).slice(1, 5);
  t.notMatch(processors[0], /_STA|_EJ0|_MAT/, 'the first CPU stays');
  const [, , , last = ''] = processors;
  t.match(last, /Name \(_UID, 0x03\)/);
  t.match(last, /Method \(_STA, 0,.*?CPUE & 0x08.*?Return \(0x0F\).*?Return \(Zero\)/s);
  t.match(last, /Name \(_MAT, Buffer \(0x08\).*?0x00, 0x08, 0x03, 0x03, 0x01, 0x00, 0x00, 0x00/s);
  t.match(last, /Method \(_EJ0, 1,.*?CPUE = 0x08/s);
  t.match(dsdt, /Local0 & 0x20[^}]*?\\_SB.CPHP \(\)/);
  const windows = dsdt.split('"LNRO0005"').slice(1);
  t.equal(windows.length, mmioDevices.length);
  mmioDevices.forEach(({ address, size, gsi }, index) => {
    const text = windows[index];
    const hex = (value: number): string => value.toString(16).toUpperCase().padStart(8, '0');
    t.match(text, `0x${hex(address)},         // Address Base`);
    t.match(text, `0x${hex(size)},         // Address Length`);
    t.match(text, /Interrupt \(ResourceConsumer, Level, ActiveHigh, Shared/);
    t.match(text, `0x${hex(gsi)},\n`);
  });
});
