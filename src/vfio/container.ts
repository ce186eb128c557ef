/**
 * A VFIO container (Documentation/driver-api/vfio.rst): the I/O page tables that a machine's passed
 * devices share, which are opened by their IOMMU groups.
 */
import * as abi from '../abi/vfio.ts';
import { HostError, UsageError } from '../host/errors.ts';
import { Fd } from '../host/fd.ts';
import { NativeMemory, StructMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import { type DmaRange, DmaSpace, noRemapping, notPermitted } from './dma-space.ts';
import type { HostFunction } from './host-function.ts';
import type { HotResetInfo } from './hot-reset.ts';

/** The file by which containers are made. */
export const CONTAINER = '/dev/vfio/vfio';

/** The file of an IOMMU group. */
export const groupFile = (group: number): string => `/dev/vfio/${group}`;

/** Its devices come from groups, which it holds open. */
export class VfioContainer extends DmaSpace {
  readonly #groups = new Map<number, Fd>();
  #fd: Fd | undefined;

  protected override openDevice({ group, address }: HostFunction): Fd {
    const groupFd = this.#groups.get(group) ?? this.#attach(group, address);
    const name = new NativeMemory(address.length + 1);
    name.bytes.set(Buffer.from(address));
    const fd = sys.ioctl(groupFd.fd, abi.VFIO_GROUP_GET_DEVICE_FD, name.address);
    return new Fd(sys.check(fd, 'VFIO_GROUP_GET_DEVICE_FD', address));
  }

  protected override mapRange({
    iova,
    address,
    size,
    access,
  }: DmaRange): readonly [number, string] {
    const map = new StructMemory(abi.vfio_iommu_type1_dma_map);
    map.set('argsz', abi.vfio_iommu_type1_dma_map.size);
    // READ and WRITE are the same bits.
    map.set('flags', access);
    map.set('vaddr', address);
    map.set('iova', iova);
    map.set('size_', size);
    return [this.#ioctl(abi.VFIO_IOMMU_MAP_DMA, map), 'VFIO_IOMMU_MAP_DMA'];
  }

  protected override unmapRange({ iova, size }: DmaRange): void {
    const unmap = new StructMemory(abi.vfio_iommu_type1_dma_unmap);
    unmap.set('argsz', abi.vfio_iommu_type1_dma_unmap.size);
    unmap.set('iova', iova);
    unmap.set('size_', size);
    this.#ioctl(abi.VFIO_IOMMU_UNMAP_DMA, unmap);
  }

  override proof({ groups }: HotResetInfo): readonly number[] | undefined {
    const files = groups.flatMap((group) => this.#groups.get(group)?.fd ?? []);
    return files.length === groups.length ? files : undefined;
  }

  override close(): void {
    super.close();
    this.#fd = undefined;
    this.#groups.clear();
  }

  #ioctl(request: number, argument: { readonly address: number }): number {
    return sys.ioctl(this.#fd?.fd ?? -1, request, argument.address);
  }

  #attach(group: number, address: string): Fd {
    const isFirst = this.#fd === undefined;
    const container = this.#fd ?? this.owned.use(openContainer());
    this.#fd = container;
    const fd = this.owned.use(openGroup(group, address));
    const status = new StructMemory(abi.vfio_group_status);
    status.set('argsz', abi.vfio_group_status.size);
    const path = groupFile(group);
    const asked = sys.ioctl(fd.fd, abi.VFIO_GROUP_GET_STATUS, status.address);
    sys.check(asked, 'VFIO_GROUP_GET_STATUS', path);
    if ((status.getNumber('flags') & abi.VFIO_GROUP_FLAGS_VIABLE) === 0) {
      throw new UsageError(
        'E_VFIO_GROUP',
        `the host uses devices of IOMMU group ${group} of ${address}`,
        `bind all of /sys/kernel/iommu_groups/${group}/devices to vfio-pci, or unbind them`,
      );
    }
    const argument = new NativeMemory(4);
    argument.view.setInt32(0, container.fd, true);
    const set = sys.ioctl(fd.fd, abi.VFIO_GROUP_SET_CONTAINER, argument.address);
    sys.check(set, 'VFIO_GROUP_SET_CONTAINER', path);
    if (isFirst) setIommu(container.fd);
    this.#groups.set(group, fd);
    return fd;
  }
}

function openContainer(): Fd {
  const fd = sys.open(CONTAINER, sys.O_RDWR | sys.O_CLOEXEC);
  if (fd < 0) {
    const code = sys.errnoName(-fd);
    throw code === 'EACCES' || code === 'EPERM'
      ? new UsageError('E_VFIO_PERMISSION', `cannot open ${CONTAINER}: ${code}`, 'run as root')
      : new UsageError(
          'E_VFIO_MODULE',
          `this kernel has no ${CONTAINER}: ${code}`,
          'run "modprobe vfio-pci" as root',
        );
  }
  const container = new Fd(fd);
  const version = sys.ioctl(fd, abi.VFIO_GET_API_VERSION, 0);
  const type1 = sys.ioctl(fd, abi.VFIO_CHECK_EXTENSION, abi.VFIO_TYPE1v2_IOMMU);
  if (version === abi.VFIO_API_VERSION && type1 > 0) return container;
  container.close();
  throw new UsageError(
    'E_VFIO_MODULE',
    'this kernel has no type 1 IOMMU for VFIO',
    'run "modprobe vfio_iommu_type1" as root',
  );
}

function openGroup(group: number, address: string): Fd {
  const path = groupFile(group);
  const fd = sys.open(path, sys.O_RDWR | sys.O_CLOEXEC);
  if (fd >= 0) return new Fd(fd);
  const code = sys.errnoName(-fd);
  if (code === 'EBUSY') {
    throw new UsageError(
      'E_VFIO_BUSY',
      `another process has IOMMU group ${group} of ${address}`,
      `see "fuser ${path}"`,
    );
  }
  if (code === 'EACCES' || code === 'EPERM') {
    throw notPermitted(path, `cannot open ${path}, the IOMMU group of ${address}: ${code}`);
  }
  throw sys.callError(fd, 'open', path);
}

function setIommu(container: number): void {
  const set = sys.ioctl(container, abi.VFIO_SET_IOMMU, abi.VFIO_TYPE1v2_IOMMU);
  if (set >= 0) return;
  const error = sys.callError(set, 'VFIO_SET_IOMMU', CONTAINER);
  if (!(error instanceof HostError) || error.code !== 'EPERM') throw error;
  throw noRemapping('vfio_iommu_type1');
}
