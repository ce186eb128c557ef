/** The IOMMU's domains and mappings (virtio 1.3 §5.13.6), against a model that keeps each page. */
import fc from 'fast-check';
import t from 'tap';
import * as abi from '../../../../src/abi/virtio-iommu.ts';
import { PAGE_SIZE } from '../../../../src/memory/guest-memory.ts';
import {
  DOMAIN_MAX,
  type EndpointSpace,
  IommuDomains,
  MSI_START,
} from '../../../../src/virtio/device/iommu/domains.ts';

const GiB = 2 ** 30;
const SIZE = 4 * GiB;
const RAM = 64 * PAGE_SIZE;
const ram = { offset: (gpa: number, length: number) => (gpa + length <= RAM ? gpa : -1) };
const { VIRTIO_IOMMU_S_OK: OK, VIRTIO_IOMMU_S_INVAL: INVAL } = abi;
const { VIRTIO_IOMMU_S_RANGE: RANGE, VIRTIO_IOMMU_S_NOENT: NOENT } = abi;
const { VIRTIO_IOMMU_S_FAULT: FAULT, VIRTIO_IOMMU_S_NOMEM: NOMEM } = abi;
const RW = abi.VIRTIO_IOMMU_MAP_F_READ | abi.VIRTIO_IOMMU_MAP_F_WRITE;

/** An endpoint's pages: `gpa access` by page address. */
class FakeSpace implements EndpointSpace {
  readonly pages = new Map<number, string>();
  all = false;
  room = Number.POSITIVE_INFINITY;

  map(address: number, gpa: number, length: number, access: number): boolean {
    if (this.room-- <= 0) return false;
    for (let at = 0; at < length; at += PAGE_SIZE) {
      this.pages.set(address + at, `${gpa + at} ${access}`);
    }
    return true;
  }
  unmap(address: number, length: number): void {
    for (let at = 0; at < length; at += PAGE_SIZE) this.pages.delete(address + at);
  }
  clear(): void {
    this.all = false;
    this.pages.clear();
  }
  bypass(): void {
    this.clear();
    this.all = true;
  }
}

function setUp(room = 1000) {
  const domains = new IommuDomains(ram, SIZE, room);
  const spaces = [8, 16].map((id) => {
    const space = new FakeSpace();
    domains.add(id, space);
    return space;
  });
  const [first, second] = spaces as [FakeSpace, FakeSpace];
  return { domains, first, second };
}

const page = (number: number, count = 1) => ({
  start: number * PAGE_SIZE,
  end: (number + count) * PAGE_SIZE - 1,
});

t.test('§5.13.6.3 ATTACH: what is refused, and with which status', async (t) => {
  const { domains, first } = setUp();
  t.ok(first.all, 'bypass before');
  t.equal(domains.attach(8, 1, 0, 1), INVAL, 'reserved');
  t.equal(domains.attach(8, 1, 2, 0), INVAL, 'an unknown flag');
  t.equal(domains.attach(9, 1, 0, 0), NOENT, 'no such endpoint');
  t.equal(domains.attach(8, DOMAIN_MAX + 1, 0, 0), RANGE);
  t.ok(first.all, 'none of them did anything');
  t.equal(domains.attach(8, 1, 0, 0), OK);
  t.notOk(first.all);
  t.equal(domains.attach(16, 1, abi.VIRTIO_IOMMU_ATTACH_F_BYPASS, 0), INVAL, 'not a bypass domain');
  t.equal(domains.attach(8, 1, 0, 0), OK, 'again, which changes nothing');
});

t.test('§5.13.6.4 DETACH; a domain without endpoints ceases to exist', async (t) => {
  const { domains, first } = setUp();
  t.equal(domains.detach(9, 1), NOENT);
  t.equal(domains.detach(8, 1), INVAL, 'not attached');
  domains.attach(8, 1, 0, 0);
  domains.map(1, { ...page(1), gpa: 0, flags: RW });
  t.equal(domains.detach(8, 2), INVAL, 'to another');
  t.equal(domains.detach(8, 1), OK);
  t.ok(first.all);
  t.equal(first.pages.size, 0);
  t.equal(domains.map(1, { ...page(2), gpa: 0, flags: RW }), NOENT);
});

t.test('§5.13.6.5 MAP: what is refused, and with which status', async (t) => {
  const { domains, first } = setUp();
  domains.attach(8, 1, 0, 0);
  const ok = { ...page(1, 2), gpa: 0, flags: RW };
  t.equal(domains.map(2, ok), NOENT);
  t.equal(domains.map(1, { ...ok, flags: 4 }), INVAL, 'MMIO is not offered');
  t.equal(domains.map(1, { ...ok, start: 4097 }), RANGE);
  t.equal(domains.map(1, { ...ok, end: 8192 }), RANGE);
  t.equal(domains.map(1, { ...ok, gpa: 1 }), RANGE);
  t.equal(domains.map(1, { ...ok, start: ok.end, end: ok.end }), RANGE, 'empty');
  t.equal(domains.map(1, { ...page(SIZE / PAGE_SIZE), gpa: 0, flags: RW }), RANGE, 'input_range');
  t.equal(domains.map(1, { ...ok, end: 2 ** 64 }), RANGE);
  t.equal(domains.map(1, { ...ok, gpa: RAM }), FAULT, 'no RAM');
  t.equal(domains.map(1, { ...ok, gpa: 2 ** 64 }), FAULT);
  const msi = { start: MSI_START, end: MSI_START + PAGE_SIZE - 1, gpa: 0, flags: RW };
  t.equal(domains.map(1, msi), INVAL, 'doorbells');
  t.equal(first.pages.size, 0, 'none of them did anything');
  t.equal(domains.map(1, ok), OK);
  for (const [at, count] of [
    [0, 2],
    [1, 1],
    [2, 1],
    [2, 5],
    [0, 9],
  ] as const) {
    t.equal(domains.map(1, { ...ok, ...page(at, count) }), INVAL, `overlap at ${at}`);
  }
  t.equal(domains.map(1, { ...ok, ...page(0) }), OK, 'adjacent');
  domains.attach(16, 2, abi.VIRTIO_IOMMU_ATTACH_F_BYPASS, 0);
  t.equal(domains.map(2, ok), INVAL, 'a bypass domain');
});

t.test('§5.13.6.6 UNMAP: the seven examples', async (t) => {
  const examples: readonly [string, [number, number][], [number, number], number, number][] = [
    ['1', [], [0, 5], OK, 0],
    ['2', [[0, 10]], [0, 10], OK, 0],
    [
      '3',
      [
        [0, 5],
        [5, 5],
      ],
      [0, 10],
      OK,
      0,
    ],
    ['4', [[0, 10]], [0, 5], RANGE, 10],
    [
      '5',
      [
        [0, 5],
        [5, 5],
      ],
      [0, 5],
      OK,
      5,
    ],
    ['6', [[0, 5]], [0, 10], OK, 0],
    [
      '7',
      [
        [0, 5],
        [10, 5],
      ],
      [0, 15],
      OK,
      0,
    ],
  ];
  for (const [name, mapped, [at, count], status, left] of examples) {
    const { domains, first } = setUp();
    domains.attach(8, 1, 0, 0);
    for (const [from, pages] of mapped) {
      t.equal(domains.map(1, { ...page(from, pages), gpa: 0, flags: RW }), OK);
    }
    const { start, end } = page(at, count);
    t.equal(domains.unmap(1, start, end), status, `example ${name}`);
    t.equal(first.pages.size, left);
  }
  const { domains } = setUp();
  t.equal(domains.unmap(1, 0, 4095), NOENT);
  domains.attach(8, 1, abi.VIRTIO_IOMMU_ATTACH_F_BYPASS, 0);
  t.equal(domains.unmap(1, 0, 4095), INVAL, 'a bypass domain');
});

t.test('mappings are bounded, and the host may have no room', async (t) => {
  const { domains, first, second } = setUp(3);
  domains.attach(8, 1, 0, 0);
  t.equal(domains.map(1, { ...page(0), gpa: 0, flags: RW }), OK);
  t.equal(domains.attach(16, 1, 0, 0), OK, 'counts again for another endpoint');
  t.equal(domains.map(1, { ...page(1), gpa: 0, flags: RW }), NOMEM, 'one more of each');
  t.equal(domains.unmap(1, 0, 4095), OK);
  second.room = 0;
  t.equal(domains.map(1, { ...page(2), gpa: 0, flags: RW }), NOMEM, 'the second has none');
  t.equal(first.pages.size, 0, 'so the first has none either');
  second.room = 9;
  t.equal(domains.map(1, { ...page(2), gpa: 0, flags: RW }), OK);
  domains.reset();
  domains.attach(8, 1, 0, 0);
  for (const at of [0, 1, 2]) {
    t.equal(domains.map(1, { ...page(at), gpa: 0, flags: RW }), OK, 'all room is back');
  }
  t.equal(domains.attach(16, 1, 0, 0), NOMEM);
  t.ok(second.all, 'which leaves it as it was');
});

const domainId = fc.integer({ min: 0, max: 2 });
const endpointId = fc.constantFrom(8, 16, 24);
const span = fc.record({ at: fc.nat(12), count: fc.integer({ min: 1, max: 4 }) });
const request = fc.oneof(
  fc.record({ op: fc.constant('attach'), endpointId, domainId }),
  fc.record({ op: fc.constant('detach'), endpointId, domainId }),
  fc.record({ op: fc.constant('map'), domainId, span, flags: fc.nat(3) }),
  fc.record({ op: fc.constant('unmap'), domainId, span }),
  fc.record({ op: fc.constant('reset') }),
);

t.test('any requests: endpoints see the mappings of their domain, and nothing else', async () => {
  fc.assert(
    fc.property(fc.array(request, { maxLength: 60 }), (requests) => {
      const { domains, first, second } = setUp(20);
      for (const one of requests) {
        if ('span' in one) {
          const { start, end } = page(one.span.at, one.span.count);
          if ('flags' in one) domains.map(one.domainId, { start, end, gpa: 0, flags: one.flags });
          else domains.unmap(one.domainId, start, end);
        } else if ('endpointId' in one) {
          if (one.op === 'attach') domains.attach(one.endpointId, one.domainId, 0, 0);
          else domains.detach(one.endpointId, one.domainId);
        } else domains.reset();
      }
      const listed = domains.list();
      const total = listed.reduce(
        (sum, one) => sum + one.endpoints.length * one.mappings.length,
        0,
      );
      if (total > 20) return false;
      return [first, second].every((space, index) => {
        const own = listed.find(({ endpoints }) => endpoints.includes([8, 16][index] ?? 0));
        if (own === undefined) return space.all && space.pages.size === 0;
        const expected = new FakeSpace();
        for (const { address, length, gpa, access } of own.mappings) {
          if (expected.pages.has(address)) return false;
          expected.map(address, gpa, length, access);
        }
        const sorted = (pages: Map<number, string>) => [...pages].sort(([a], [b]) => a - b).join();
        return !space.all && sorted(space.pages) === sorted(expected.pages);
      });
    }),
    { numRuns: 2000, seed: 20261129 },
  );
});
