/** Who is reset with a device, and whether that is all ours. */
import t from 'tap';
import { VfioContainer } from '../../../src/vfio/container.ts';
import { hotReset, parseHotResetInfo, readHotResetInfo } from '../../../src/vfio/hot-reset.ts';
import { IommufdSpace } from '../../../src/vfio/iommufd.ts';

/** A `vfio_pci_hot_reset_info`. */
function info(flags: number, count: number, ...groups: readonly number[]): DataView {
  const view = new DataView(new ArrayBuffer(12 + 8 * groups.length));
  view.setUint32(4, flags, true);
  view.setUint32(8, count, true);
  groups.forEach((group, at) => {
    view.setUint32(12 + 8 * at, group, true);
    view.setUint8(12 + 8 * at + 6, 0x1f);
    view.setUint8(12 + 8 * at + 7, 0x10 + at);
  });
  return view;
}

t.test('groups of the functions on the bus, each once', async (t) => {
  t.same(parseHotResetInfo(info(0, 3, 7, 8, 7)), {
    addresses: ['0000:1f:02.0', '0000:1f:02.1', '0000:1f:02.2'],
    groups: [7, 8],
    owned: false,
  });
  t.same(
    parseHotResetInfo(info(0, 0xffff_ffff, 7)),
    { addresses: ['0000:1f:02.0'], groups: [7], owned: false },
    'no more than fit',
  );
});

t.test('by iommufd the kernel says whether all are ours', async (t) => {
  t.match(parseHotResetInfo(info(1, 1, 1)), { groups: [], owned: false });
  const owned = parseHotResetInfo(info(3, 1, 1));
  t.same(owned, { addresses: ['0000:1f:02.0'], groups: [], owned: true });
  using space = new IommufdSpace();
  t.same(space.proof(owned), []);
  t.equal(space.proof({ addresses: [], groups: [], owned: false }), undefined);
});

t.test('a group that is not open is not ours', async (t) => {
  using container = new VfioContainer();
  t.equal(container.proof({ addresses: ['0000:1f:02.0'], groups: [7], owned: false }), undefined);
});

t.test('a file that is none of VFIO', async (t) => {
  t.equal(readHotResetInfo(-1), undefined);
  t.ok(hotReset(-1, [1, 2]) < 0);
});
