/** A kernel with one vDPA device, for hosts without it. It serves nothing: it records what it is asked for. */
import { EBUSY, EEXIST, EINVAL, ENOENT, ENOTTY, EOPNOTSUPP } from '../../../src/abi/errno.ts';
import * as vhost from '../../../src/abi/vhost.ts';
import * as abi from '../../../src/abi/vhost-vdpa.ts';
import {
  featureSet,
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_VERSION_1,
} from '../../../src/abi/virtio-ring.ts';
import type { NativeMemory } from '../../../src/host/native-memory.ts';
import type { PoolCalls } from '../../../src/host/pool-calls.ts';

export const PARENT = '/dev/vhost-vdpa-0';
const FD = 1_000_000;
const names = new Map<number, string>(
  Object.entries({ ...vhost, ...abi }).flatMap(([name, value]) =>
    name.startsWith('VHOST_') && typeof value === 'number' && value > 0xff
      ? [[value, name] as const]
      : [],
  ),
);

/** A ring as it was set up. */
interface FakeRing {
  num: number;
  base: number;
  addresses: readonly number[];
  kick: number;
  call: number;
  enabled: boolean;
}

export class FakeVhostVdpa implements PoolCalls {
  /** Calls in order, without reads of properties. */
  readonly calls: string[] = [];
  readonly rings = new Map<number, FakeRing>();
  /** Addresses and sizes. */
  readonly iotlb = new Map<bigint, bigint>();
  deviceId = 2;
  features = featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_RING_PACKED, VIRTIO_F_ACCESS_PLATFORM);
  /** MSG_V2, BATCH, ASID. */
  backendFeatures = 0b1110n;
  queueCount = 2;
  config: Uint8Array = new Uint8Array(60);
  lastAddress = 0xffff_ffff_ffff_ffffn;
  /** Bits of the status that it does not set. */
  refused = 0;
  /** Set on its own. */
  needsReset = 0;
  accepted = 0n;
  status = 0;
  opened = false;
  configCall = -1;
  /** Positions that it reports, by queue; without any it cannot. */
  bases: Map<number, number> | undefined = new Map();
  /** Errnos, by call. */
  readonly fails = new Map<string, number>();

  /** The calls since the last time. */
  take(): string[] {
    return this.calls.splice(0);
  }

  async open(path: string): Promise<number> {
    const failed = this.fails.get('open');
    if (failed !== undefined) return -failed;
    if (path !== PARENT) return -ENOENT;
    if (this.opened) return -EBUSY;
    this.opened = true;
    return FD;
  }

  async close(): Promise<number> {
    this.calls.push('close');
    this.opened = false;
    this.status = 0;
    return 0;
  }

  async write(_fd: number, { view }: NativeMemory): Promise<number> {
    const at = vhost.vhost_msg_v2.padding.offset;
    const type = view.getUint8(at + vhost.vhost_iotlb_msg.type.offset);
    const iova = view.getBigUint64(at + vhost.vhost_iotlb_msg.iova.offset, true);
    const size = view.getBigUint64(at + vhost.vhost_iotlb_msg.size_.offset, true);
    if (view.getUint32(0, true) !== vhost.VHOST_IOTLB_MSG_V2) return -EINVAL;
    this.calls.push(['', 'miss', 'map', 'unmap', '', 'begin', 'end'][type] ?? '');
    const failed = this.fails.get('write');
    if (failed !== undefined && type === vhost.VHOST_IOTLB_UPDATE) return -failed;
    if (type === vhost.VHOST_IOTLB_UPDATE) {
      if (this.iotlb.has(iova)) return -EEXIST;
      this.iotlb.set(iova, size);
    } else if (type === vhost.VHOST_IOTLB_INVALIDATE) this.iotlb.delete(iova);
    return view.byteLength;
  }

  async ioctl(_fd: number, request: number, argument?: NativeMemory): Promise<number> {
    const name = names.get(request) ?? String(request);
    const failed = this.fails.get(name);
    if (failed !== undefined) return -failed;
    const view = argument?.view ?? new DataView(new ArrayBuffer(8));
    return this.#properties(request, view) ? 0 : this.#control(name, request, view);
  }

  #properties(request: number, view: DataView): boolean {
    switch (request) {
      case abi.VHOST_VDPA_GET_DEVICE_ID:
        view.setUint32(0, this.deviceId, true);
        return true;
      case vhost.VHOST_GET_FEATURES:
        view.setBigUint64(0, this.features, true);
        return true;
      case vhost.VHOST_GET_BACKEND_FEATURES:
        view.setBigUint64(0, this.backendFeatures, true);
        return true;
      case abi.VHOST_VDPA_GET_VQS_COUNT:
        view.setUint32(0, this.queueCount, true);
        return true;
      case abi.VHOST_VDPA_GET_CONFIG_SIZE:
        view.setUint32(0, this.config.length, true);
        return true;
      case abi.VHOST_VDPA_GET_VRING_NUM:
        view.setUint16(0, 300, true);
        return true;
      case abi.VHOST_VDPA_GET_IOVA_RANGE:
        view.setBigUint64(0, 0n, true);
        view.setBigUint64(8, this.lastAddress, true);
        return true;
      default:
        return false;
    }
  }

  #control(name: string, request: number, view: DataView): number {
    const [first, second] =
      view.byteLength >= 8 ? [view.getUint32(0, true), view.getInt32(4, true)] : [0, 0];
    switch (request) {
      case vhost.VHOST_SET_OWNER:
      case vhost.VHOST_SET_BACKEND_FEATURES:
        return 0;
      case abi.VHOST_VDPA_GET_STATUS:
        view.setUint8(0, this.status | this.needsReset);
        return 0;
      case abi.VHOST_VDPA_GET_CONFIG: {
        const bytes = this.config.subarray(first, first + second);
        for (const [i, byte] of bytes.entries()) view.setUint8(8 + i, byte);
        return bytes.length === second ? 0 : -EINVAL;
      }
      case abi.VHOST_VDPA_SET_STATUS:
        this.#setStatus(view.getUint8(0));
        return 0;
      case vhost.VHOST_SET_FEATURES:
        this.accepted = view.getBigUint64(0, true);
        break;
      case abi.VHOST_VDPA_SET_CONFIG: {
        const bytes = new Uint8Array(view.buffer, view.byteOffset + 8, second);
        this.calls.push(`config ${first} ${bytes.join()}`);
        this.config.set(bytes, first);
        return 0;
      }
      case abi.VHOST_VDPA_SET_CONFIG_CALL:
        this.configCall = view.getInt32(0, true);
        return 0;
      case abi.VHOST_VDPA_SUSPEND:
      case abi.VHOST_VDPA_RESUME:
        break;
      case vhost.VHOST_GET_VRING_BASE:
        if (this.bases === undefined) return -EOPNOTSUPP;
        view.setUint32(4, this.bases.get(first) ?? 0, true);
        break;
      default:
        return this.#ring(request, first, second, view);
    }
    this.calls.push(name);
    return 0;
  }

  #setStatus(status: number): void {
    this.calls.push(`status ${status}`);
    this.status = status & ~this.refused;
    if (status === 0) this.needsReset = 0;
  }

  #ring(request: number, index: number, value: number, view: DataView): number {
    if (index >= this.queueCount) return -EINVAL;
    const fresh = { num: 0, base: 0, addresses: [], kick: -1, call: -1, enabled: false };
    const ring = this.rings.get(index) ?? fresh;
    this.rings.set(index, ring);
    switch (request) {
      case vhost.VHOST_SET_VRING_NUM:
        ring.num = value;
        return 0;
      case vhost.VHOST_SET_VRING_BASE:
        ring.base = value >>> 0;
        return 0;
      case vhost.VHOST_SET_VRING_ADDR: {
        const { desc_user_addr, avail_user_addr, used_user_addr } = vhost.vhost_vring_addr;
        ring.addresses = [desc_user_addr, avail_user_addr, used_user_addr].map(({ offset }) =>
          Number(view.getBigUint64(offset, true)),
        );
        return 0;
      }
      case vhost.VHOST_SET_VRING_CALL:
        ring.call = value;
        return 0;
      case vhost.VHOST_SET_VRING_KICK:
        ring.kick = value;
        return 0;
      case abi.VHOST_VDPA_SET_VRING_ENABLE:
        ring.enabled = value === 1;
        this.calls.push(`enable ${index}`);
        return 0;
      default:
        return -ENOTTY;
    }
  }
}
