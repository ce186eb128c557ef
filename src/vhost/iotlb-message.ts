/** Messages on a device IOTLB, by which the kernel's vhost and vhost-vdpa follow an IOMMU (linux/vhost_types.h). */
import * as abi from '../abi/vhost.ts';
import { NativeMemory, StructMemory } from '../host/native-memory.ts';

/** What a message says. */
export interface IotlbMessage {
  /** VHOST_IOTLB_. */
  readonly type: number;
  readonly iova: number;
  /** Bytes. */
  readonly size: number;
  /** Host address. */
  readonly uaddr: number;
  /** VHOST_ACCESS_ bits, which are the same as ACCESS_ bits. */
  readonly perm: number;
}

const AT = abi.vhost_msg_v2.padding.offset;
const { iova, size_: size, uaddr, perm, type } = abi.vhost_iotlb_msg;

/** As it is written to the device. */
export function encodeIotlb(message: IotlbMessage): NativeMemory {
  const memory = new StructMemory(abi.vhost_msg_v2);
  memory.set('type', abi.VHOST_IOTLB_MSG_V2);
  const { view } = memory;
  view.setBigUint64(AT + iova.offset, BigInt(message.iova), true);
  view.setBigUint64(AT + size.offset, BigInt(message.size), true);
  view.setBigUint64(AT + uaddr.offset, BigInt(message.uaddr), true);
  view.setUint8(AT + perm.offset, message.perm);
  view.setUint8(AT + type.offset, message.type);
  return memory;
}

/** As it is read from the device. Addresses above 2^53, which nothing is mapped at, are rounded. */
export function decodeIotlb({ view }: NativeMemory): IotlbMessage {
  const u64 = (offset: number): number => Number(view.getBigUint64(AT + offset, true));
  return {
    type: view.getUint8(AT + type.offset),
    iova: u64(iova.offset),
    size: u64(size.offset),
    uaddr: u64(uaddr.offset),
    perm: view.getUint8(AT + perm.offset),
  };
}

/** Room for a message that is read. */
export const iotlbBuffer = (): NativeMemory => new NativeMemory(abi.vhost_msg_v2.size);
