/**
 * An I/O address space of iommufd (Documentation/userspace-api/iommufd.rst), to which devices come by
 * their own files, without groups and containers.
 */
import * as abi from '../abi/iommufd.ts';
import { CleanupStack } from '../host/cleanup-stack.ts';
import { UsageError } from '../host/errors.ts';
import { Fd } from '../host/fd.ts';
import { StructMemory } from '../host/native-memory.ts';
import * as sys from '../host/syscall.ts';
import { ACCESS_READ, ACCESS_WRITE } from '../memory/guest-memory.ts';
import { type DmaRange, DmaSpace, noRemapping, notPermitted } from './dma-space.ts';
import type { HostFunction } from './host-function.ts';
import type { HotResetInfo } from './hot-reset.ts';

export const IOMMUFD = '/dev/iommu';

interface Space {
  readonly fd: number;
  readonly ioas: number;
}

/** Its devices are opened by /dev/vfio/devices/vfioN. */
export class IommufdSpace extends DmaSpace {
  #space: Space | undefined;

  protected override openDevice(pciFunction: HostFunction): Fd {
    const { address } = pciFunction;
    const path = pciFunction.deviceFile;
    if (path === undefined) throw noDeviceFile(`no file for ${address} in /dev/vfio/devices`);
    const space = this.#space ?? this.#make();
    this.#space = space;
    using stack = new CleanupStack();
    const device = stack.use(openFile(path, `${path}, ${address}`));
    const bind = new StructMemory(abi.vfio_device_bind_iommufd);
    bind.set('argsz', abi.vfio_device_bind_iommufd.size);
    bind.set('iommufd', space.fd);
    const bound = sys.ioctl(device.fd, abi.VFIO_DEVICE_BIND_IOMMUFD, bind.address);
    if (bound < 0) throw bindError(bound, address, path);
    const attach = new StructMemory(abi.vfio_device_attach_iommufd_pt);
    attach.set('argsz', abi.vfio_device_attach_iommufd_pt.size);
    attach.set('pt_id', space.ioas);
    const attached = sys.ioctl(device.fd, abi.VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach.address);
    sys.check(attached, 'VFIO_DEVICE_ATTACH_IOMMUFD_PT', address);
    stack.move();
    return device;
  }

  protected override mapRange({
    iova,
    address,
    size,
    access,
  }: DmaRange): readonly [number, string] {
    const map = new StructMemory(abi.iommu_ioas_map);
    map.set('size_', abi.iommu_ioas_map.size);
    const writable = (access & ACCESS_WRITE) === 0 ? 0 : abi.IOMMU_IOAS_MAP_WRITEABLE;
    const readable = (access & ACCESS_READ) === 0 ? 0 : abi.IOMMU_IOAS_MAP_READABLE;
    map.set('flags', abi.IOMMU_IOAS_MAP_FIXED_IOVA | writable | readable);
    map.set('ioas_id', this.#space?.ioas ?? 0);
    map.set('user_va', address);
    map.set('length', size);
    map.set('iova', iova);
    return [this.#ioctl(abi.IOMMU_IOAS_MAP, map), 'IOMMU_IOAS_MAP'];
  }

  protected override unmapRange({ iova, size }: DmaRange): void {
    const unmap = new StructMemory(abi.iommu_ioas_unmap);
    unmap.set('size_', abi.iommu_ioas_unmap.size);
    unmap.set('ioas_id', this.#space?.ioas ?? 0);
    unmap.set('iova', iova);
    unmap.set('length', size);
    this.#ioctl(abi.IOMMU_IOAS_UNMAP, unmap);
  }

  override proof({ owned }: HotResetInfo): readonly number[] | undefined {
    return owned ? [] : undefined;
  }

  override close(): void {
    super.close();
    this.#space = undefined;
  }

  #make(): Space {
    const { fd } = this.owned.use(openFile(IOMMUFD, IOMMUFD));
    const alloc = new StructMemory(abi.iommu_ioas_alloc);
    alloc.set('size_', abi.iommu_ioas_alloc.size);
    sys.check(sys.ioctl(fd, abi.IOMMU_IOAS_ALLOC, alloc.address), 'IOMMU_IOAS_ALLOC', IOMMUFD);
    return { fd, ioas: alloc.getNumber('out_ioas_id') };
  }

  #ioctl(request: number, argument: { readonly address: number }): number {
    return sys.ioctl(this.#space?.fd ?? -1, request, argument.address);
  }
}

function openFile(path: string, what: string): Fd {
  const fd = sys.open(path, sys.O_RDWR | sys.O_CLOEXEC);
  if (fd >= 0) return new Fd(fd);
  const code = sys.errnoName(-fd);
  const problem = `cannot open ${what}: ${code}`;
  if (code === 'ENOENT') throw noDeviceFile(problem);
  if (code === 'EACCES' || code === 'EPERM') throw notPermitted(path, problem);
  throw sys.callError(fd, 'open', path);
}

const noDeviceFile = (problem: string): UsageError =>
  new UsageError(
    'E_VFIO_MODULE',
    problem,
    'leave out iommufd=on, or use a kernel with CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV',
  );

/** drivers/vfio/device_cdev.c and drivers/iommu/iommufd/device.c */
function bindError(result: number, address: string, path: string): Error {
  const code = sys.errnoName(-result);
  // EBUSY: its group is open, or another driver's; EINVAL: it is open already.
  if (code === 'EBUSY' || code === 'EINVAL') {
    const problem = `another process has ${address}, or its IOMMU group`;
    return new UsageError('E_VFIO_BUSY', problem, `see "fuser ${path}"`);
  }
  if (code !== 'EPERM') return sys.callError(result, 'VFIO_DEVICE_BIND_IOMMUFD', address);
  return noRemapping('iommufd');
}
