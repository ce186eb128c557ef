/** SMBIOS tables: structure by our own reading of DSP0134 3.0, and meaning by dmidecode. */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import t from 'tap';
import {
  memoryMap,
  RESET_VECTOR_GPA,
  SMBIOS_GPA,
  SMBIOS_LIMIT,
  writeResetVector,
} from '../../../src/boot/boot-layout.ts';
import { checkSmbios, type SmbiosOptions, writeSmbios } from '../../../src/boot/smbios.ts';
import { Ram } from '../../../src/memory/ram.ts';

const MiB = 2 ** 20;
const GiB = 2 ** 30;
const ALL: SmbiosOptions = {
  manufacturer: 'Maker',
  product: 'Thing 3000',
  version: 'v1',
  serial: 'ds=nocloud;s=http://10.0.2.1:8000/,h=a',
  uuid: '00112233-4455-6677-8899-AABBCCDDEEFF',
  sku: 'SKU-7',
  family: 'Things',
  assetTag: 'tag~!',
  oemStrings: ['io.systemd.credential:a=b', 'second'],
};

interface Tables {
  readonly entry: Buffer;
  readonly structures: Buffer;
}

/** The tables as Linux finds them: the first boundary of 16 bytes that has the anchor. */
function tables(options: SmbiosOptions, size = 64 * MiB, cpus = 2): Tables {
  using ram = new Ram(size);
  const { memory } = ram;
  memory.bytes(0xf_0000, 0x1_0000).fill(0xff);
  writeResetVector(memory);
  const vector = Buffer.from(memory.bytes(RESET_VECTOR_GPA, 16));
  writeSmbios(memory, options, cpus);
  const before = Buffer.from(memory.bytes(0xf_0000, 0x1_0000));
  writeSmbios(memory, options, cpus);
  const area = Buffer.from(memory.bytes(0xf_0000, 0x1_0000));
  if (!area.equals(before)) throw new Error('a second time it comes out otherwise');
  if (!vector.equals(area.subarray(0xfff0))) throw new Error('the reset vector is gone');
  for (let at = 0; at < 0x1_0000; at += 16) {
    if (area.toString('latin1', at, at + 5) !== '_SM3_') continue;
    const entry = area.subarray(at, at + 24);
    const start = Number(entry.readBigUInt64LE(16)) - 0xf_0000;
    return { entry, structures: area.subarray(start, start + entry.readUInt32LE(12)) };
  }
  throw new Error('no entry point');
}

interface Structure {
  readonly type: number;
  readonly handle: number;
  readonly fields: Buffer;
  readonly strings: readonly string[];
}

/** §6.1: fields, then strings up to an empty one; no strings at all end with two zeros. */
function parse(structures: Buffer): Structure[] {
  const found: Structure[] = [];
  let at = 0;
  while (at < structures.length) {
    const length = structures.readUInt8(at + 1);
    const fields = structures.subarray(at, at + length);
    const strings: string[] = [];
    let end = at + length;
    while (structures[end] !== 0) {
      const stop = structures.indexOf(0, end);
      strings.push(structures.toString('latin1', end, stop));
      end = stop + 1;
    }
    at = strings.length === 0 ? end + 2 : end + 1;
    found.push({ type: fields.readUInt8(0), handle: fields.readUInt16LE(2), fields, strings });
  }
  return found;
}

t.test('§5.2.2 entry point: anchor, version, length, sum; all of it is reserved', async (t) => {
  const { entry, structures } = tables({});
  t.same([...entry.subarray(6, 11)], [24, 3, 0, 0, 1]);
  t.equal(entry.reduce((sum, byte) => sum + byte, 0) % 256, 0);
  t.equal(parse(structures).at(-1)?.type, 127, 'the last structure is the end of the table');
  using ram = new Ram(64 * MiB);
  const reserved = memoryMap(ram.memory).find(({ gpa, size }) => SMBIOS_GPA < gpa + size);
  t.match(reserved, { type: 2 });
  t.ok(reserved !== undefined && reserved.gpa <= SMBIOS_GPA);
  t.ok(reserved !== undefined && reserved.gpa + reserved.size >= SMBIOS_LIMIT);
});

t.test('§7: the structures, their lengths in 3.0, handles that differ', async (t) => {
  const of = (size: number) => parse(tables(ALL, size, 16).structures);
  const small = of(64 * MiB);
  t.same(
    small.map(({ type, fields }) => [type, fields.length]),
    [
      [0, 0x18],
      [1, 0x1b],
      [3, 0x16],
      [4, 0x30],
      [11, 0x05],
      [16, 0x17],
      [17, 0x28],
      [19, 0x1f],
      [32, 0x0b],
      [127, 0x04],
    ],
  );
  t.equal(new Set(small.map(({ handle }) => handle)).size, small.length);
  const mapped = of(5 * GiB).filter(({ type }) => type === 19);
  t.same(
    mapped.map(({ fields }) => [fields.readUInt32LE(4) * 1024, fields.readUInt32LE(8) * 1024]),
    [
      [0, 3 * GiB - 1024],
      [4 * GiB, 6 * GiB - 1024],
    ],
  );
  const device = parse(tables({}, 40 * GiB).structures).find(({ type }) => type === 17);
  t.equal(device?.fields.readUInt16LE(0x0c), 0x7fff, '32 GiB and more');
  t.equal(device?.fields.readUInt32LE(0x1c), 40 * 1024, 'MiB in the extended size');
});

t.test('without options: no serial, no UUID', async (t) => {
  const system = parse(tables({}).structures).find(({ type }) => type === 1);
  t.same(system?.strings, ['nodevmm', 'virtual machine']);
  t.same([...(system?.fields.subarray(4, 8) ?? [])], [1, 2, 0, 0]);
  t.ok(system?.fields.subarray(8, 24).every((byte) => byte === 0));
});

t.test('any strings that are let through come back, in tables that hold together', async () => {
  const text = fc.string({
    unit: fc.integer({ min: 0x20, max: 0x7e }).map((code) => String.fromCharCode(code)),
    minLength: 1,
    maxLength: 300,
  });
  const optional = { requiredKeys: [] };
  const options = fc.record(
    {
      manufacturer: text,
      product: text,
      version: text,
      serial: text,
      uuid: fc.uuid(),
      sku: text,
      family: text,
      assetTag: text,
      oemStrings: fc.array(text, { maxLength: 100 }),
    },
    optional,
  );
  fc.assert(
    fc.property(options, fc.integer({ min: 1, max: 16 }), (given, cpus) => {
      checkSmbios(given);
      const found = parse(tables(given, 32 * MiB, cpus).structures);
      const { manufacturer = 'nodevmm', product = 'virtual machine' } = given;
      const { version, serial, sku, family, assetTag, oemStrings = [] } = given;
      const stringsOf = (type: number) => found.find((one) => one.type === type)?.strings ?? [];
      const kept = (texts: readonly (string | undefined)[]) =>
        JSON.stringify(texts.filter((one) => one !== undefined));
      return (
        kept(stringsOf(1)) === kept([manufacturer, product, version, serial, sku, family]) &&
        kept(stringsOf(3)) === kept([manufacturer, assetTag]) &&
        kept(stringsOf(11)) === kept(oemStrings) &&
        found.at(-1)?.type === 127
      );
    }),
    { numRuns: 60 },
  );
});

t.test('what is refused, in one line', async (t) => {
  const cases: [SmbiosOptions, RegExp][] = [
    [{ serial: '' }, /the serial is empty; leave it out$/],
    [{ serial: 'a\0b' }, /the serial "a\\u0000b" has characters that are not printable ASCII/],
    [{ product: 'a\nb' }, /the product "a\\nb"/],
    [{ family: 'Ä' }, /the family "Ä"/],
    [{ oemStrings: ['ok', '\x7f'] }, /the OEM string/],
    [{ uuid: '' }, /the uuid "" is invalid; use 8-4-4-4-12 hexadecimal digits$/],
    [{ uuid: '00112233445566778899aabbccddeeff' }, /the uuid/],
    [{ uuid: `${ALL.uuid}\n` }, /the uuid/],
    [{ oemStrings: new Array<string>(256).fill('a') }, /256 OEM strings/],
    [{ serial: 'a'.repeat(50_000) }, /have 50001 bytes, more than 49152; shorten them$/],
    [{ oemStrings: new Array<string>(250).fill('a'.repeat(200)) }, /have 50250 bytes/],
  ];
  for (const [options, message] of cases) {
    t.throws(() => checkSmbios(options), { name: 'UsageError', code: 'E_SMBIOS', message });
    t.throws(() => checkSmbios(options), { message: /^SMBIOS: [^\n]*; [^\n]*$/ });
  }
  const most = { oemStrings: new Array<string>(255).fill('a'.repeat(190)) };
  checkSmbios(most);
  t.equal(parse(tables(most).structures).at(-1)?.type, 127, 'the most that is let through fits');
});

const decoder = ['dmidecode', '/usr/sbin/dmidecode'].find(
  (path) => spawnSync(path, ['--version']).error === undefined,
);
const skip = decoder === undefined ? 'dmidecode is not installed' : false;

t.test('dmidecode reads them', { skip }, async (t) => {
  const decode = (options: SmbiosOptions, ...args: string[]): string => {
    const { entry, structures } = tables(options, 5 * GiB, 4);
    // A dump has the structures at 32, and an entry point to match.
    const moved = Buffer.from(entry);
    moved.writeBigUInt64LE(32n, 16);
    moved[5] = 0;
    moved[5] = -moved.reduce((sum, byte) => sum + byte, 0) & 0xff;
    const dump = join(t.testdirName, 'dump');
    writeFileSync(dump, Buffer.concat([moved, Buffer.alloc(8), structures]));
    const run = spawnSync(decoder ?? '', ['--from-dump', dump, ...args], { encoding: 'utf8' });
    t.equal(run.status, 0, run.stderr);
    t.equal(run.stderr, '');
    return run.stdout;
  };
  t.testdir();
  const keywords: [string, string | undefined][] = [
    ['system-manufacturer', ALL.manufacturer],
    ['system-product-name', ALL.product],
    ['system-version', ALL.version],
    ['system-serial-number', ALL.serial],
    ['system-uuid', ALL.uuid?.toLowerCase()],
    ['system-sku-number', ALL.sku],
    ['system-family', ALL.family],
    ['chassis-asset-tag', ALL.assetTag],
  ];
  for (const [keyword, value] of keywords) t.equal(decode(ALL, '-s', keyword).trim(), value);
  const text = decode(ALL);
  t.match(text, /SMBIOS 3\.0\.0 present/);
  t.notMatch(text, /BROKEN|<OUT OF SPEC>|<BAD INDEX>|Wrong|Invalid|truncated/i);
  for (const line of [
    'System is a virtual machine',
    'String 1: io.systemd.credential:a=b',
    'String 2: second',
    'Core Count: 4',
    'Maximum Capacity: 5 GB',
    'Size: 5 GB',
    'Range Size: 3 GB',
    'Range Size: 2 GB',
    'End Of Table',
  ]) {
    t.ok(text.includes(line), line);
  }
  t.match(decode({}), /UUID: Not Settable/);
});
