/** The guest memory that a frontend shares, by guest physical and by frontend user address. */
import { Closeable } from '../../host/cleanup-stack.ts';
import type { Fd } from '../../host/fd.ts';
import { ForeignRam } from '../../memory/foreign-ram.ts';
import { GuestMemory, type GuestMemoryShare } from '../../memory/guest-memory.ts';
import type { RamPlace } from '../../memory/iova-space.ts';
import { protocolError } from '../message.ts';
import type { MemoryRegion } from '../payload.ts';

/** Regions that may be added one by one (VHOST_USER_ADD_MEM_REG). */
export const MEMORY_SLOTS = 32;

interface Slot {
  readonly region: MemoryRegion;
  readonly fd: Fd;
}

/** Changes only while no ring is served. */
export class FrontendMemory extends Closeable {
  #slots: readonly Slot[] = [];
  #ram: ForeignRam | undefined;
  #view: GuestMemory | undefined;

  /** Undefined while there is none. */
  get share(): GuestMemoryShare | undefined {
    return this.#ram?.share;
  }

  /** For this thread. */
  get view(): GuestMemory | undefined {
    return this.#view;
  }

  /** The frontend has truncated memory that was accessed afterwards. */
  get truncated(): boolean {
    return this.#ram?.truncated === true;
  }

  /**
   * VHOST_USER_SET_MEM_TABLE.
   * @param fds one per region; owned from here on
   * @throws PeerError or HostError when they cannot be mapped; there is no memory then
   */
  replace(regions: readonly MemoryRegion[], fds: readonly Fd[]): void {
    const before = this.#slots;
    const slots = regions.flatMap((region, i) => {
      const fd = fds[i];
      return fd === undefined ? [] : [{ region, fd }];
    });
    try {
      this.#map(slots);
    } finally {
      for (const { fd } of before) fd.close();
    }
  }

  /** VHOST_USER_ADD_MEM_REG. @throws as `replace` */
  add(region: MemoryRegion, fd: Fd): void {
    if (this.#slots.length < MEMORY_SLOTS) {
      this.#map([...this.#slots, { region, fd }]);
      return;
    }
    fd.close();
    throw protocolError(`more than ${MEMORY_SLOTS} memory regions`);
  }

  /** VHOST_USER_REM_MEM_REG. @throws PeerError when there is no such region */
  remove({ gpa, size, userAddress }: MemoryRegion): void {
    const found = this.#slots.find(
      ({ region }) =>
        region.gpa === gpa && region.size === size && region.userAddress === userAddress,
    );
    if (found === undefined) {
      throw protocolError(`no memory region at 0x${gpa.toString(16)} to remove`);
    }
    this.#map(this.#slots.filter((slot) => slot !== found));
    found.fd.close();
  }

  /** The guest physical address behind a user address of the frontend; -1 for none. */
  guestAddress(userAddress: number): number {
    for (const { region } of this.#slots) {
      const at = userAddress - region.userAddress;
      if (at >= 0 && at < region.size) return region.gpa + at;
    }
    return -1;
  }

  /** The frontend's file that has all of a piece of guest RAM; undefined: none. */
  placeOf(gpa: number, length: number): RamPlace | undefined {
    for (const { region, fd } of this.#slots) {
      const at = gpa - region.gpa;
      if (at < 0 || at + length > region.size) continue;
      return { fd: fd.fd, offset: region.mmapOffset + at };
    }
    return undefined;
  }

  close(): void {
    this.#unmap();
    for (const { fd } of this.#slots) fd.close();
    this.#slots = [];
  }

  #map(slots: readonly Slot[]): void {
    this.#unmap();
    this.#slots = slots;
    checkUserAddresses(slots);
    if (slots.length === 0) return;
    this.#ram = new ForeignRam(
      slots.map(({ region, fd }) => ({
        gpa: region.gpa,
        size: region.size,
        fd: fd.fd,
        fileOffset: region.mmapOffset,
      })),
    );
    this.#view = new GuestMemory(this.#ram.share);
  }

  #unmap(): void {
    this.#view?.detach();
    this.#view = undefined;
    this.#ram?.[Symbol.dispose]();
    this.#ram = undefined;
  }
}

/** @throws PeerError when an address would be ambiguous */
function checkUserAddresses(slots: readonly Slot[]): void {
  const sorted = slots.map(({ region }) => region).sort((a, b) => a.userAddress - b.userAddress);
  for (const [i, { userAddress, size }] of sorted.entries()) {
    const next = sorted[i + 1];
    if (next !== undefined && userAddress + size > next.userAddress) {
      throw protocolError(
        `memory regions overlap at user address 0x${next.userAddress.toString(16)}`,
      );
    }
  }
}
