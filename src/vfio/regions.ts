/**
 * What of a device's BARs the guest reaches without an exit: whole pages that VFIO lets processes map,
 * less those with the MSI-X table or its pending bits, which are the guest's own and not the device's.
 */
import * as abi from '../abi/vfio.ts';

export const PAGE_SIZE = 0x1000;

/** A part of a region. */
export interface Area {
  readonly offset: number;
  /** Bytes. */
  readonly size: number;
}

/** One of a device's regions (struct vfio_region_info). */
export interface Region {
  /** Bytes; 0: the device has no such region. */
  readonly size: number;
  /** Of its first byte in the device's file. */
  readonly offset: number;
  /** What can be mapped. */
  readonly mappable: readonly Area[];
}

export const NO_REGION: Region = { size: 0, offset: 0, mappable: [] };

/**
 * A region from what the kernel wrote: a `vfio_region_info` and its capabilities. What lies outside
 * of the region is left out, whatever the kernel says.
 */
export function parseRegion(view: DataView): Region {
  const { flags, cap_offset, size_, offset } = abi.vfio_region_info;
  const size = Number(view.getBigUint64(size_.offset, true));
  const found = view.getUint32(flags.offset, true);
  const usable = abi.VFIO_REGION_INFO_FLAG_READ | abi.VFIO_REGION_INFO_FLAG_WRITE;
  if ((found & usable) === 0) return NO_REGION;
  const isMappable = (found & abi.VFIO_REGION_INFO_FLAG_MMAP) !== 0;
  const hasCaps = (found & abi.VFIO_REGION_INFO_FLAG_CAPS) !== 0;
  const sparse = hasCaps ? sparseAreas(view, view.getUint32(cap_offset.offset, true)) : undefined;
  const areas = sparse ?? [{ offset: 0, size }];
  return {
    size,
    offset: Number(view.getBigUint64(offset.offset, true)),
    mappable: isMappable ? areas.filter((area) => area.offset + area.size <= size) : [],
  };
}

/** VFIO_REGION_INFO_CAP_SPARSE_MMAP, or undefined without it. */
function sparseAreas(view: DataView, first: number): Area[] | undefined {
  const { id, next, size: headerSize } = abi.vfio_info_cap_header;
  const { nr_areas, size: capSize } = abi.vfio_region_info_cap_sparse_mmap;
  const area = abi.vfio_region_sparse_mmap_area;
  const last = view.byteLength - headerSize;
  // Each lies behind the one before it, so that this ends.
  for (let at = first, before = 0; at > before && at <= last; ) {
    if (view.getUint16(at + id.offset, true) === abi.VFIO_REGION_INFO_CAP_SPARSE_MMAP) {
      const count = Math.min(
        view.getUint32(at + nr_areas.offset, true),
        Math.floor((view.byteLength - at - capSize) / area.size),
      );
      return Array.from({ length: count }, (_, index) => {
        const start = at + capSize + index * area.size;
        return {
          offset: Number(view.getBigUint64(start + area.offset.offset, true)),
          size: Number(view.getBigUint64(start + area.size_.offset, true)),
        };
      });
    }
    before = at;
    at = view.getUint32(at + next.offset, true);
  }
  return undefined;
}

/** Whole pages of what can be mapped, without the pages that any of `trapped` touches; lowest first. */
export function carve(mappable: readonly Area[], trapped: readonly Area[]): Area[] {
  const holes = trapped
    .filter(({ size }) => size > 0)
    .map(({ offset, size }) => ({ start: pageStart(offset), end: pageEnd(offset + size) }))
    .sort((a, b) => a.start - b.start);
  return mappable
    .flatMap(({ offset, size }) => {
      const parts: Area[] = [];
      let start = pageEnd(offset);
      const end = pageStart(offset + size);
      for (const hole of holes) {
        if (hole.end <= start || hole.start >= end) continue;
        if (hole.start > start) parts.push({ offset: start, size: hole.start - start });
        start = hole.end;
      }
      if (start < end) parts.push({ offset: start, size: end - start });
      return parts;
    })
    .sort((a, b) => a.offset - b.offset);
}

const pageStart = (offset: number): number => Math.floor(offset / PAGE_SIZE) * PAGE_SIZE;
const pageEnd = (offset: number): number => Math.ceil(offset / PAGE_SIZE) * PAGE_SIZE;
