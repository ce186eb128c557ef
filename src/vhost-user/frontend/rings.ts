/** What a frontend tells a backend of memory and rings, and asks when it takes a ring back. */

import {
  VHOST_USER_ADD_MEM_REG,
  VHOST_USER_GET_MAX_MEM_SLOTS,
  VHOST_USER_GET_VRING_BASE,
  VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  VHOST_USER_SET_MEM_TABLE,
  VHOST_USER_SET_VRING_ADDR,
  VHOST_USER_SET_VRING_BASE,
  VHOST_USER_SET_VRING_CALL,
  VHOST_USER_SET_VRING_ENABLE,
  VHOST_USER_SET_VRING_ERR,
  VHOST_USER_SET_VRING_KICK,
  VHOST_USER_SET_VRING_NUM,
} from '../../abi/vhost-user.ts';
import { VIRTIO_F_RING_PACKED } from '../../abi/virtio-ring.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';
import { hasFeature } from '../../virtio/features.ts';
import { placeVirtqueue } from '../../virtio/queue/create-virtqueue.ts';
import type { QueueConfig, VringState } from '../../virtio/queue/virtqueue.ts';
import { protocolError } from '../message.ts';
import {
  readVringNumber,
  writeMemoryRegion,
  writeMemoryTable,
  writeVringAddress,
  writeVringFd,
  writeVringNumber,
} from '../payload.ts';
import type { Connection } from './connection.ts';

const VRING_STATE_SIZE = 8;
/** The used ring's index, behind its flags (virtio 1.3 §2.7.8). */
const USED_INDEX = 2;
/** A fresh packed ring starts at 0 with both wrap counters set (virtio 1.3 §2.8.1). */
export const FRESH_PACKED: VringState = { nextAvail: 0x8000, nextUsed: 0x8000 };

/** Lets the backend map guest RAM; the addresses of rings are ours in it. @throws PeerError */
export async function shareMemory(connection: Connection, memory: GuestMemory): Promise<void> {
  const { fd } = memory.share;
  const regions = memory.regions.map(({ gpa, size, offset }) => ({
    gpa,
    size,
    userAddress: memory.address + offset,
    mmapOffset: offset,
  }));
  if (connection.has(VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS)) {
    const slots = await connection.askU64(VHOST_USER_GET_MAX_MEM_SLOTS);
    if (slots < BigInt(regions.length)) {
      const has = `it has room for ${slots} memory regions`;
      throw connection.fail(protocolError(`${has}, guest RAM has ${regions.length}`));
    }
    for (const region of regions) {
      await connection.order(VHOST_USER_ADD_MEM_REG, writeMemoryRegion(region), [fd]);
    }
    return;
  }
  const fds = regions.map(() => fd);
  await connection.order(VHOST_USER_SET_MEM_TABLE, writeMemoryTable(regions), fds);
}

/**
 * Sets a ring up, not enabled yet.
 * @param features all that were negotiated
 * @param errorFd eventfd for the backend to signal when it cannot go on
 * @throws PeerError when the driver put the queue where there is no RAM, or the backend refuses
 */
export async function setUpRing(
  connection: Connection,
  memory: GuestMemory,
  config: QueueConfig,
  features: bigint,
  errorFd: number,
): Promise<void> {
  const { index, size, callFd, kickFd } = config;
  const place = placeVirtqueue(memory, config, features);
  const number = (num: number): DataView => writeVringNumber({ index, num });
  const file = (request: number, fd: number): Promise<void> =>
    connection.order(request, writeVringFd(index, fd >= 0), fd < 0 ? [] : [fd]);
  await connection.order(VHOST_USER_SET_VRING_NUM, number(size));
  await connection.order(VHOST_USER_SET_VRING_BASE, number(base(config.state, features)));
  await connection.order(
    VHOST_USER_SET_VRING_ADDR,
    writeVringAddress({
      index,
      flags: 0,
      descriptor: memory.address + place.descriptor,
      used: memory.address + place.device,
      available: memory.address + place.driver,
    }),
  );
  await file(VHOST_USER_SET_VRING_ERR, errorFd);
  await file(VHOST_USER_SET_VRING_CALL, callFd);
  await file(VHOST_USER_SET_VRING_KICK, kickFd);
}

/** Has a ring served, or not; needs VHOST_USER_F_PROTOCOL_FEATURES. @throws PeerError */
export function enableRing(connection: Connection, index: number, enabled: boolean): Promise<void> {
  const payload = writeVringNumber({ index, num: enabled ? 1 : 0 });
  return connection.order(VHOST_USER_SET_VRING_ENABLE, payload);
}

/** Stops a ring. @returns where it stands @throws PeerError */
export async function takeRingBack(
  connection: Connection,
  memory: GuestMemory,
  config: QueueConfig,
  features: bigint,
): Promise<VringState> {
  const { index } = config;
  const request = writeVringNumber({ index, num: 0 });
  const answer = await connection.ask(VHOST_USER_GET_VRING_BASE, request);
  const state = readVringNumber(connection.plain(answer, VRING_STATE_SIZE));
  if (state.index !== index) {
    throw connection.fail(protocolError(`ring ${state.index} was given back in place of ${index}`));
  }
  const { num } = state;
  if (hasFeature(features, VIRTIO_F_RING_PACKED)) {
    return { nextAvail: num & 0xffff, nextUsed: num >>> 16 };
  }
  return { nextAvail: num & 0xffff, nextUsed: usedIndex(memory, config, features) };
}

/** Of a split ring, as the driver sees it. */
export function usedIndex(memory: GuestMemory, config: QueueConfig, features: bigint): number {
  return memory.readU16(placeVirtqueue(memory, config, features).device + USED_INDEX);
}

/** On split rings the backend reads the used index from the ring itself. */
function base(state: VringState | undefined, features: bigint): number {
  if (!hasFeature(features, VIRTIO_F_RING_PACKED)) return state?.nextAvail ?? 0;
  const { nextAvail, nextUsed } = state ?? FRESH_PACKED;
  return (nextAvail | (nextUsed << 16)) >>> 0;
}
