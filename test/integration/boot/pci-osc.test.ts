/** _OSC of the host bridge (PCI Firmware 3.3 §4.5.1), run by Intel's interpreter. */
import { spawnSync } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { writeAcpiTables } from '../../../src/boot/acpi-tables.ts';
import { OSC_GRANTED } from '../../../src/boot/dsdt.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { testFolder } from '../../support/rigs/files.ts';

const interpreter = 'acpiexec';
const missing = spawnSync(interpreter, ['-h']).error !== undefined;
const skip = missing ? 'acpiexec is not installed (acpica-tools)' : false;

const HOST_BRIDGE = '5B 4D DB 33 F7 1F 1C 40 96 57 74 41 C0 3D D7 66';
const CXL_HOST_BRIDGE = '5B 2D F2 68 32 C7 1C 4D B4 E0 3F 71 D3 8B 17 4E';
const QUERY = 1;

const directory = testFolder(t);
const dsdt = join(directory, 'DSDT.aml');
writeFileSync(dsdt, dsdtOfAGuest());

function dsdtOfAGuest(): Uint8Array {
  using ram = new Ram(64 * 2 ** 20);
  const { memory } = ram;
  const options = {
    cpus: 1,
    ramSize: memory.size,
    physicalAddressBits: 40,
    mmioDevices: [],
    generationId: new Uint8Array(16),
  };
  const rsdp = writeAcpiTables(memory, options);
  const xsdt = memory.readU64(rsdp + 24);
  // The FADT is the first table; X_DSDT lies at 140.
  const gpa = memory.readU64(memory.readU64(xsdt + 36) + 140);
  return memory.bytes(gpa, memory.readU32(gpa + 4)).slice();
}

/** A call: the capabilities buffer in words, and what differs from a sound call. */
interface Call {
  readonly words: readonly number[];
  readonly uuid?: string;
  readonly revision?: number;
}

/** What the method makes of each buffer; one run of the interpreter, which is slow to start. */
function osc(calls: readonly Call[]): number[][] {
  const commands = calls.map(({ words, uuid = HOST_BRIDGE, revision = 1 }) => {
    const bytes = Buffer.from(Uint32Array.from(words).buffer);
    const hex = bytes.toString('hex').replaceAll(/(..)(?=.)/g, '$1 ');
    return `execute \\_SB.PCI0._OSC (${uuid}) ${revision} ${words.length} (${hex})`;
  });
  const args = ['-b', commands.join(';'), dsdt];
  const { stdout } = spawnSync(interpreter, args, { encoding: 'latin1' });
  return stdout
    .split('Evaluating ')
    .slice(1)
    .map((result) => {
      const rows = result.matchAll(/[0-9A-F]{4}: ((?:[0-9A-F]{2} )+)/g);
      const bytes = [...rows].flatMap(([, row = '']) => row.trim().split(' '));
      return [...new Uint32Array(Uint8Array.from(bytes, (byte) => Number(`0x${byte}`)).buffer)];
    });
}

t.test('what Linux asks for is granted, in a query and for good', { skip }, async (t) => {
  const calls = [0x3d, 0x3f, 0x10, OSC_GRANTED].flatMap((control) => [
    { words: [QUERY, 0x11f, control] },
    { words: [0, 0x11f, control] },
  ]);
  t.same(
    osc(calls),
    calls.map(({ words }) => words),
  );
});

t.test('unknown control bits are cleared, and the status shows it', { skip }, async (t) => {
  t.same(osc([{ words: [0, 0x1f, 0xffff_ffff] }, { words: [QUERY, 0x1f, 0x40] }]), [
    [0x10, 0x1f, OSC_GRANTED],
    [0x11, 0x1f, 0],
  ]);
});

t.test('another UUID or revision, or no control word: refused', { skip }, async (t) => {
  const words = [0, 0x1f, 0x3f];
  const results = osc([
    { words, uuid: CXL_HOST_BRIDGE },
    { words, uuid: `${HOST_BRIDGE} 00` },
    { words, revision: 2 },
    { words: [0, 0x1f] },
  ]);
  t.same(results, [
    [4, 0x1f, 0x3f],
    [4, 0x1f, 0x3f],
    [8, 0x1f, 0x3f],
    [2, 0x1f],
  ]);
});
