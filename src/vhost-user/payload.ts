/**
 * Encodes and decodes the payloads of vhost-user messages. Lengths were checked with the header; the
 * values are checked here.
 */
import { readField, writeField } from '../abi/struct.ts';
import { vhost_iotlb_msg, vhost_vring_addr, vhost_vring_state } from '../abi/vhost.ts';
import {
  VHOST_USER_CONFIG_LIVE_MIGRATION,
  VHOST_USER_MAX_REGIONS,
  VHOST_USER_MEM_REG_PADDING,
  VHOST_USER_VRING_IDX_MASK,
  VHOST_USER_VRING_NOFD_MASK,
  vhost_user_config,
  vhost_user_inflight,
  vhost_user_memory,
  vhost_user_memory_region,
} from '../abi/vhost-user.ts';
import type { Fd } from '../host/fd.ts';
import type { IotlbMessage } from '../vhost/iotlb-message.ts';
import { type Message, protocolError } from './message.ts';

/** VHOST_USER_*_VRING_NUM, _BASE, _ENABLE. */
export interface VringNumber {
  readonly index: number;
  readonly num: number;
}

/** VHOST_USER_SET_VRING_ADDR; addresses are the frontend's user addresses. */
export interface VringAddress {
  readonly index: number;
  readonly flags: number;
  readonly descriptor: number;
  readonly used: number;
  readonly available: number;
}

/** A region of guest memory. */
export interface MemoryRegion {
  /** Guest physical address. */
  readonly gpa: number;
  /** Bytes. */
  readonly size: number;
  /** The frontend's user address. */
  readonly userAddress: number;
  /** Its start in its file. */
  readonly mmapOffset: number;
}

/** VHOST_USER_GET_CONFIG and SET_CONFIG. */
export interface ConfigAccess {
  readonly offset: number;
  readonly liveMigration: boolean;
  readonly bytes: Uint8Array;
}

/** VHOST_USER_GET_INFLIGHT_FD and SET_INFLIGHT_FD. */
export interface InflightArea {
  readonly mmapSize: number;
  readonly mmapOffset: number;
  readonly queues: number;
  readonly queueSize: number;
}

const make = (size: number): DataView<ArrayBuffer> => new DataView(new ArrayBuffer(size));

export function readU64({ payload }: Message): bigint {
  if (payload.byteLength < 8) {
    throw protocolError(`a payload of ${payload.byteLength} bytes instead of a 64-bit number`);
  }
  return payload.getBigUint64(0, true);
}

export function writeU64(value: bigint | number): DataView<ArrayBuffer> {
  const view = make(8);
  view.setBigUint64(0, BigInt(value), true);
  return view;
}

export function readVringNumber({ payload }: Message): VringNumber {
  return {
    index: payload.getUint32(vhost_vring_state.index.offset, true),
    num: payload.getUint32(vhost_vring_state.num.offset, true),
  };
}

export function writeVringNumber({ index, num }: VringNumber): DataView<ArrayBuffer> {
  const view = make(vhost_vring_state.size);
  writeField(view, vhost_vring_state.index, index);
  writeField(view, vhost_vring_state.num, num);
  return view;
}

export function readVringAddress({ payload }: Message): VringAddress {
  const address = (field: 'desc_user_addr' | 'used_user_addr' | 'avail_user_addr'): number =>
    exact(readField(payload, vhost_vring_addr[field]), 'a ring address');
  return {
    index: payload.getUint32(vhost_vring_addr.index.offset, true),
    flags: payload.getUint32(vhost_vring_addr.flags.offset, true),
    descriptor: address('desc_user_addr'),
    used: address('used_user_addr'),
    available: address('avail_user_addr'),
  };
}

export function writeVringAddress(address: VringAddress): DataView<ArrayBuffer> {
  const view = make(vhost_vring_addr.size);
  writeField(view, vhost_vring_addr.index, address.index);
  writeField(view, vhost_vring_addr.flags, address.flags);
  writeField(view, vhost_vring_addr.desc_user_addr, address.descriptor);
  writeField(view, vhost_vring_addr.used_user_addr, address.used);
  writeField(view, vhost_vring_addr.avail_user_addr, address.available);
  return view;
}

/** VHOST_USER_SET_VRING_KICK, _CALL, _ERR: the ring, and its descriptor, which the caller owns. */
export function readVringFd({ payload, fds }: Message): { index: number; fd: Fd | undefined } {
  const value = payload.getBigUint64(0, true);
  const index = Number(value & BigInt(VHOST_USER_VRING_IDX_MASK));
  const none = (value & BigInt(VHOST_USER_VRING_NOFD_MASK)) !== 0n;
  if (none !== (fds.length === 0)) {
    throw protocolError(`ring ${index} ${none ? 'with a' : 'without its'} file descriptor`);
  }
  return { index, fd: fds.shift() };
}

/** @param hasFd false when no descriptor goes with it */
export function writeVringFd(index: number, hasFd: boolean): DataView<ArrayBuffer> {
  return writeU64(index | (hasFd ? 0 : VHOST_USER_VRING_NOFD_MASK));
}

/** VHOST_USER_SET_MEM_TABLE: as many regions as descriptors. */
export function readMemoryTable({ payload, fds }: Message): MemoryRegion[] {
  const count = payload.getUint32(vhost_user_memory.nregions.offset, true);
  const expected = vhost_user_memory.size + count * vhost_user_memory_region.size;
  if (count > VHOST_USER_MAX_REGIONS || expected !== payload.byteLength || count !== fds.length) {
    throw protocolError(
      `a memory table of ${count} regions in ${payload.byteLength} bytes with ${fds.length} file descriptors`,
    );
  }
  return Array.from({ length: count }, (_, i) =>
    readRegion(payload, vhost_user_memory.size + i * vhost_user_memory_region.size),
  );
}

export function writeMemoryTable(regions: readonly MemoryRegion[]): DataView<ArrayBuffer> {
  const view = make(vhost_user_memory.size + regions.length * vhost_user_memory_region.size);
  writeField(view, vhost_user_memory.nregions, regions.length);
  regions.forEach((region, i) => {
    writeRegion(view, vhost_user_memory.size + i * vhost_user_memory_region.size, region);
  });
  return view;
}

/** VHOST_USER_ADD_MEM_REG, REM_MEM_REG. */
export function readMemoryRegion({ payload }: Message): MemoryRegion {
  return readRegion(payload, VHOST_USER_MEM_REG_PADDING);
}

export function writeMemoryRegion(region: MemoryRegion): DataView<ArrayBuffer> {
  const view = make(VHOST_USER_MEM_REG_PADDING + vhost_user_memory_region.size);
  writeRegion(view, VHOST_USER_MEM_REG_PADDING, region);
  return view;
}

export function readConfigAccess({ payload }: Message): ConfigAccess {
  const offset = payload.getUint32(vhost_user_config.offset.offset, true);
  const size = payload.getUint32(vhost_user_config.length.offset, true);
  const flags = payload.getUint32(vhost_user_config.flags.offset, true);
  const bytes = new Uint8Array(payload.buffer, payload.byteOffset + vhost_user_config.size);
  if (size !== bytes.length) {
    throw protocolError(`${size} bytes of configuration announced, ${bytes.length} sent`);
  }
  return { offset, liveMigration: (flags & VHOST_USER_CONFIG_LIVE_MIGRATION) !== 0, bytes };
}

export function writeConfigAccess(access: ConfigAccess): DataView<ArrayBuffer> {
  const { offset, liveMigration, bytes } = access;
  const view = make(vhost_user_config.size + bytes.length);
  view.setUint32(vhost_user_config.offset.offset, offset, true);
  view.setUint32(vhost_user_config.length.offset, bytes.length, true);
  const flags = liveMigration ? VHOST_USER_CONFIG_LIVE_MIGRATION : 0;
  view.setUint32(vhost_user_config.flags.offset, flags, true);
  new Uint8Array(view.buffer).set(bytes, vhost_user_config.size);
  return view;
}

export function readInflight({ payload }: Message): InflightArea {
  return {
    mmapSize: exact(readField(payload, vhost_user_inflight.mmap_size), 'a size'),
    mmapOffset: exact(readField(payload, vhost_user_inflight.mmap_offset), 'an offset'),
    queues: payload.getUint16(vhost_user_inflight.num_queues.offset, true),
    queueSize: payload.getUint16(vhost_user_inflight.queue_size.offset, true),
  };
}

/** Padded as in C. */
export function writeInflight(area: InflightArea): DataView<ArrayBuffer> {
  const view = make(vhost_user_inflight.size + 4);
  writeField(view, vhost_user_inflight.mmap_size, area.mmapSize);
  writeField(view, vhost_user_inflight.mmap_offset, area.mmapOffset);
  writeField(view, vhost_user_inflight.num_queues, area.queues);
  writeField(view, vhost_user_inflight.queue_size, area.queueSize);
  return view;
}

/** VHOST_USER_IOTLB_MSG, VHOST_USER_BACKEND_IOTLB_MSG. Addresses above 2^53, which nothing is mapped at, are rounded. */
export function readIotlb({ payload }: Message): IotlbMessage {
  const { iova, size_, uaddr, perm, type } = vhost_iotlb_msg;
  const u64 = (field: typeof iova): number => Number(readField(payload, field));
  return {
    type: payload.getUint8(type.offset),
    iova: u64(iova),
    size: u64(size_),
    uaddr: u64(uaddr),
    perm: payload.getUint8(perm.offset),
  };
}

export function writeIotlb(message: IotlbMessage): DataView<ArrayBuffer> {
  const view = make(vhost_iotlb_msg.size);
  writeField(view, vhost_iotlb_msg.iova, message.iova);
  writeField(view, vhost_iotlb_msg.size_, message.size);
  writeField(view, vhost_iotlb_msg.uaddr, message.uaddr);
  view.setUint8(vhost_iotlb_msg.perm.offset, message.perm);
  view.setUint8(vhost_iotlb_msg.type.offset, message.type);
  return view;
}

function readRegion(view: DataView, at: number): MemoryRegion {
  const { guest_phys_addr, memory_size, userspace_addr, mmap_offset } = vhost_user_memory_region;
  return {
    gpa: exact(readField(view, guest_phys_addr, at), 'a guest address'),
    size: exact(readField(view, memory_size, at), 'a region size'),
    userAddress: exact(readField(view, userspace_addr, at), 'a user address'),
    mmapOffset: exact(readField(view, mmap_offset, at), 'an offset in a file'),
  };
}

function writeRegion(view: DataView, at: number, region: MemoryRegion): void {
  const { guest_phys_addr, memory_size, userspace_addr, mmap_offset } = vhost_user_memory_region;
  writeField(view, guest_phys_addr, region.gpa, at);
  writeField(view, memory_size, region.size, at);
  writeField(view, userspace_addr, region.userAddress, at);
  writeField(view, mmap_offset, region.mmapOffset, at);
}

/** No address space reaches 2^52: sums of two such numbers are exact as doubles. @throws PeerError */
function exact(value: bigint, what: string): number {
  if (value < 2n ** 52n) return Number(value);
  throw protocolError(`${what} of 0x${value.toString(16)}`);
}
