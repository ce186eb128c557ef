/** What devices behind the IOMMU reach: the snapshot, and how page and terminal show it. */
import t from 'tap';
import { domainText, faultsText, mappingsText, reachIn } from '../../../src/inspect/iommu-facts.ts';
import { inspectView } from '../../../src/inspect/page.ts';
import { terminalView } from '../../../src/inspect/terminal-view.ts';
import type { MachineInspection } from '../../../src/machine/inspect.ts';
import { inspectEndpoint } from '../../../src/machine/inspect-iommu.ts';
import type { IovaMapping } from '../../../src/memory/iova-table.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import type { InspectedDomain } from '../../../src/virtio/device/iommu/domains.ts';
import { aDevice, quietQueue } from '../../support/fixtures/inspection.ts';

const PART = MiB;
using ram = new Ram(128 * PART, 'memfd');
const RECORD = { device: 'net0', id: 8, faults: 0, last: undefined };

const mapping = (address: number, gpa: number, length: number, access: number): IovaMapping => ({
  address,
  length,
  gpa,
  access,
});
const domain = (mappings: readonly IovaMapping[], bypass = false): InspectedDomain => ({
  id: 3,
  bypass,
  endpoints: [8, 16],
  mappings,
});

t.test('a device in a domain reaches what is mapped there', async (t) => {
  const mappings = [
    mapping(0x1000, 0, 4096, 1),
    mapping(0x2000, 4096, 4096, 2),
    mapping(0x10_0000, 5 * PART, 2 * PART, 2),
    mapping(0x80_0000, 127 * PART, PART, 3),
  ];
  const seen = inspectEndpoint(RECORD, [domain(mappings)], ram.memory, true);
  t.match(seen, { device: 'net0', endpoint: 8, domain: 3, bypass: false, mappings: 4, faults: 0 });
  t.equal(seen.bytes, 8192 + 3 * PART);
  const expected = new Array(128).fill(0);
  expected[0] = 3;
  expected[5] = expected[6] = 2;
  expected[127] = 3;
  t.same(seen.reach, expected);
  t.same(
    seen.listed.map(({ start, end, gpa, access }) => `${start} ${end} ${gpa} ${access}`),
    [
      '0x1000 0x1fff 0x0 r',
      '0x2000 0x2fff 0x1000 w',
      '0x100000 0x2fffff 0x500000 w',
      '0x800000 0x8fffff 0x7f00000 rw',
    ],
  );
  t.equal(mappingsText(seen), '4 mappings, 3080 KiB');
  t.equal(domainText(seen), 'domain 3');
  t.equal(faultsText(seen), '');
});

t.test(
  'a device in no domain reaches all or nothing, and one in a bypass domain all',
  async (t) => {
    const other = { ...RECORD, id: 24 };
    const all = inspectEndpoint(other, [domain([])], ram.memory, true);
    t.match(all, { domain: null, bypass: true, mappings: 0 });
    t.ok(all.reach.every((bits) => bits === 3));
    t.same([domainText(all), mappingsText(all)], ['no domain, bypass', 'all guest RAM']);
    const nothing = inspectEndpoint(other, [domain([])], ram.memory, false);
    t.ok(nothing.reach.every((bits) => bits === 0));
    t.equal(mappingsText(nothing), 'nothing');
    const through = inspectEndpoint(RECORD, [domain([], true)], ram.memory, false);
    t.equal(domainText(through), 'domain 3, bypass');
  },
);

t.test('faults, and mappings beyond those that are listed', async (t) => {
  const many = Array.from({ length: 300 }, (_, i) => mapping(4096 * i, 4096 * i, 4096, 3));
  const last = { address: 0xdead_f000, write: true };
  const seen = inspectEndpoint({ ...RECORD, faults: 2, last }, [domain(many)], ram.memory, true);
  t.equal(seen.mappings, 300);
  t.equal(seen.listed.length, 256);
  t.equal(faultsText(seen), '2 faults, the last at 0xdeadf000 (w)');
  t.same(seen.lastFault, { address: '0xdeadf000', access: 'w' });
});

t.test('fewer parts show what is in any of theirs', async (t) => {
  const mappings = [mapping(0, 3 * PART, PART, 1), mapping(PART, 4 * PART, PART, 2)];
  const seen = inspectEndpoint(RECORD, [domain(mappings)], ram.memory, true);
  t.same(reachIn(seen, 32).slice(0, 3), ['read', 'write', 'none']);
  t.same(reachIn(seen, 16).slice(0, 2), ['both', 'none']);
  t.equal(reachIn(seen, 1000).length, 128);
  t.same(reachIn(seen, 0), ['both']);
});

const machine = (): MachineInspection => {
  const last = { address: 0x7000, write: false };
  const domains = [domain([mapping(0x1000, 0, 64 * PART, 1)])];
  const endpoints = [
    inspectEndpoint({ ...RECORD, faults: 1, last }, domains, ram.memory, true),
    inspectEndpoint({ ...RECORD, device: 'blk0', id: 99 }, domains, ram.memory, true),
  ];
  const devices = ['iommu0', 'net0', 'blk0', 'free0'].map((name) => aDevice(name, [quietQueue()]));
  return { state: 'running', devices, functions: [], iommu: { device: 'iommu0', endpoints } };
};

t.test('the terminal: all of them for the IOMMU, its own for a device', async (t) => {
  const view = (device: string): string =>
    terminalView('vm', machine(), { device, queue: 0 }, { columns: 120, rows: 40 })
      .join('\n')
      // biome-ignore lint/suspicious/noControlCharactersInRegex: styles
      .replace(/\x1b\[\d*m/g, '');
  const all = view('iommu0');
  t.match(all, /net0 +r+\.+ {2}domain 3, 1 mapping, 64 MiB {2}1 fault, the last at 0x7000 \(r\)/);
  t.match(all, /blk0 +#+ {2}no domain, bypass, all guest RAM/);
  t.match(view('net0'), /net0 +r+\./);
  t.notMatch(view('net0'), /blk0 +#/);
  t.notMatch(view('free0'), /guest RAM that it may/);
});

t.test('the page: a strip of guest RAM for each, the mappings of one', async (t) => {
  const view = (device: string): string => inspectView('vm', machine(), { device, queue: 0 });
  const all = view('iommu0');
  t.equal(all.match(/<rect class="reach-read"/g)?.length, 64);
  t.equal(all.match(/<rect class="reach-both"/g)?.length, 128);
  t.match(all, /1 fault, the last at 0x7000 \(r\)/);
  t.notMatch(all, /0x1000 to 0x4000fff/);
  t.match(view('net0'), /0x1000 to 0x4000fff.*0x0.*r/);
  t.notMatch(view('free0'), /What devices reach/);
});
