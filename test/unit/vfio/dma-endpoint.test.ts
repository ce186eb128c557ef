/** A passed device behind the machine's IOMMU: the host's page tables have what the guest maps, and nothing else. */
import t from 'tap';
import { Eventfd } from '../../../src/host/fd.ts';
import { ACCESS_READ, ACCESS_WRITE } from '../../../src/memory/guest-memory.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { DmaEndpoint } from '../../../src/vfio/dma-endpoint.ts';
import { type DmaRange, DmaSpace } from '../../../src/vfio/dma-space.ts';
import type { HostFunction } from '../../../src/vfio/host-function.ts';

const PAGE = 4096;
const RW = ACCESS_READ | ACCESS_WRITE;

/** A host whose IOMMU ends at 1 GiB. */
class FakeSpace extends DmaSpace {
  readonly ranges: DmaRange[] = [];
  protected override openDevice(): Eventfd {
    return new Eventfd();
  }
  protected override mapRange(range: DmaRange): readonly [number, string] {
    if (range.iova + range.size > 2 ** 30) return [-22, 'MAP'];
    this.ranges.push(range);
    return [0, 'MAP'];
  }
  protected override unmapRange({ iova, size }: DmaRange): void {
    const at = this.ranges.findIndex((range) => range.iova === iova && range.size === size);
    if (at < 0) throw new Error('not mapped');
    this.ranges.splice(at, 1);
  }
  override proof(): undefined {}
}

function setUp() {
  const ram = new Ram(4 * MiB, 'memfd');
  const space = new FakeSpace();
  const device = space.open({} as HostFunction);
  const refused: number[] = [];
  const endpoint = new DmaEndpoint(space, ram.memory, () => refused.push(1));
  const close = (): void => {
    endpoint.close();
    device.close();
    ram.close();
  };
  return { ram: ram.memory, space, endpoint, refused, close };
}

t.test('what is mapped, and for what', async (t) => {
  const { ram, space, endpoint, close } = setUp();
  t.ok(endpoint.map(16 * PAGE, PAGE, 2 * PAGE, RW));
  t.ok(endpoint.map(8 * PAGE, 5 * PAGE, PAGE, ACCESS_READ));
  t.ok(endpoint.map(9 * PAGE, 5 * PAGE, PAGE, 0));
  const first = { iova: 16 * PAGE, address: ram.address + PAGE, size: 2 * PAGE, access: RW };
  const second = {
    iova: 8 * PAGE,
    address: ram.address + 5 * PAGE,
    size: PAGE,
    access: ACCESS_READ,
  };
  t.same(space.ranges, [first, second]);
  t.equal(space.pinned, 3 * PAGE);
  endpoint.unmap(0, 12 * PAGE);
  t.same(space.ranges, [first]);
  t.notOk(endpoint.map(2 ** 30, 0, PAGE, RW), 'the host’s IOMMU has no such address');
  t.equal(space.pinned, 2 * PAGE);
  endpoint.clear();
  t.same(space.ranges, []);
  t.equal(space.pinned, 0);
  close();
});

t.test('bypass is all of guest RAM', async (t) => {
  const { ram, space, endpoint, refused, close } = setUp();
  endpoint.map(16 * PAGE, PAGE, PAGE, RW);
  endpoint.bypass();
  t.same(space.ranges, [{ iova: 0, address: ram.address, size: 4 * MiB, access: RW }]);
  t.same(refused, []);
  close();
  t.same(space.ranges, []);
});

t.test('a device that the host took back', async (t) => {
  const { space, endpoint, close } = setUp();
  endpoint.map(0, 0, PAGE, RW);
  space.leave();
  t.ok(endpoint.map(PAGE, 0, PAGE, RW), 'is no obstacle to the guest');
  t.equal(space.ranges.length, 1);
  endpoint.clear();
  close();
});
