/** Which pages of a BAR a guest may have mapped. */
import t from 'tap';
import * as abi from '../../../src/abi/vfio.ts';
import { carve, NO_REGION, parseRegion } from '../../../src/vfio/regions.ts';

/** What VFIO_DEVICE_GET_REGION_INFO writes. */
function info(flags: number, size: number, caps: (view: DataView) => void = () => {}): DataView {
  const view = new DataView(new ArrayBuffer(256));
  view.setUint32(abi.vfio_region_info.flags.offset, flags, true);
  view.setBigUint64(abi.vfio_region_info.size_.offset, BigInt(size), true);
  view.setBigUint64(abi.vfio_region_info.offset.offset, 0x100_0000_0000n, true);
  caps(view);
  return view;
}

/** A capability at an offset. */
function capability(view: DataView, at: number, id: number, next: number): void {
  view.setUint16(at, id, true);
  view.setUint32(at + abi.vfio_info_cap_header.next.offset, next, true);
}

function sparse(view: DataView, at: number, areas: readonly (readonly [number, number])[]): void {
  capability(view, at, abi.VFIO_REGION_INFO_CAP_SPARSE_MMAP, 0);
  view.setUint32(at + 8, areas.length, true);
  areas.forEach(([offset, size], index) => {
    view.setBigUint64(at + 16 + index * 16, BigInt(offset), true);
    view.setBigUint64(at + 24 + index * 16, BigInt(size), true);
  });
}

const RW = abi.VFIO_REGION_INFO_FLAG_READ | abi.VFIO_REGION_INFO_FLAG_WRITE;
const MMAP = RW | abi.VFIO_REGION_INFO_FLAG_MMAP;
const CAPS = MMAP | abi.VFIO_REGION_INFO_FLAG_CAPS;

t.test('a region that can be mapped is mapped whole', async (t) => {
  t.same(parseRegion(info(MMAP, 0x4000)), {
    size: 0x4000,
    offset: 0x100_0000_0000,
    mappable: [{ offset: 0, size: 0x4000 }],
  });
  t.same(parseRegion(info(RW, 0x4000)).mappable, []);
  t.same(parseRegion(info(0, 0x4000)), NO_REGION);
});

t.test('only the areas of a sparse region are mapped, which lie within it', async (t) => {
  const view = info(CAPS, 0x8000, (view) => {
    view.setUint32(abi.vfio_region_info.cap_offset.offset, 32, true);
    capability(view, 32, abi.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, 48);
    const areas = [
      [0, 0x2000],
      [0x4000, 0x4000],
      [0x6000, 0x4000],
    ] as const;
    sparse(view, 48, areas);
  });
  t.same(parseRegion(view).mappable, [
    { offset: 0, size: 0x2000 },
    { offset: 0x4000, size: 0x4000 },
  ]);
});

t.test('a list of capabilities that goes backwards or too far ends there', async (t) => {
  for (const next of [32, 16, 250, 0xffff_fff0]) {
    const view = info(CAPS, 0x1000, (view) => {
      view.setUint32(abi.vfio_region_info.cap_offset.offset, 32, true);
      capability(view, 32, abi.VFIO_REGION_INFO_CAP_MSIX_MAPPABLE, next);
    });
    t.same(parseRegion(view).mappable, [{ offset: 0, size: 0x1000 }], `next at ${next}`);
  }
});

t.test('a capability that claims more areas than there is room for', async (t) => {
  const view = info(CAPS, 0x1000, (view) => {
    view.setUint32(abi.vfio_region_info.cap_offset.offset, 32, true);
    sparse(view, 32, []);
    view.setUint32(40, 0xffff_ffff, true);
  });
  t.same(
    parseRegion(view).mappable.filter(({ size }) => size > 0),
    [],
  );
});

t.test('the pages of the MSI-X structures are cut out', async (t) => {
  const bar = [{ offset: 0, size: 0x4000 }];
  const cut = (...trapped: (readonly [number, number])[]): (readonly [number, number])[] =>
    carve(
      bar,
      trapped.map(([offset, size]) => ({ offset, size })),
    ).map(({ offset, size }) => [offset, size]);
  t.same(cut(), [[0, 0x4000]]);
  t.same(cut([0x2000, 0x410], [0x3000, 16]), [[0, 0x2000]], "as QEMU's nvme has it");
  t.same(cut([0x1ff0, 0x20]), [
    [0, 0x1000],
    [0x3000, 0x1000],
  ]);
  t.same(cut([0x3000, 8], [0x1000, 8]), [
    [0, 0x1000],
    [0x2000, 0x1000],
  ]);
  t.same(cut([0, 0x4000]), []);
  t.same(cut([0x2000, 0]), [[0, 0x4000]]);
  t.same(cut([0x2100, 16], [0x2800, 8]), [
    [0, 0x2000],
    [0x3000, 0x1000],
  ]);
});

t.test('only whole pages are mapped', async (t) => {
  t.same(carve([{ offset: 0, size: 0x800 }], []), []);
  t.same(carve([{ offset: 0x800, size: 0x2000 }], []), [{ offset: 0x1000, size: 0x1000 }]);
  t.same(
    carve(
      [
        { offset: 0x2000, size: 0x1800 },
        { offset: 0, size: 0x1000 },
      ],
      [],
    ),
    [
      { offset: 0, size: 0x1000 },
      { offset: 0x2000, size: 0x1000 },
    ],
  );
});
