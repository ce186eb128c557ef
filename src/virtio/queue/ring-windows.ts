/** Windows over a virtqueue's three areas in guest RAM, once their placement is checked. */
import { PeerError } from '../../host/errors.ts';
import type { GuestMemory } from '../../memory/guest-memory.ts';

/** The ring features that a queue needs to know (virtio 1.3 §6). */
export interface RingFeatures {
  readonly indirect: boolean;
  readonly eventIdx: boolean;
  readonly inOrder: boolean;
}

/** One area as 16-bit and 32-bit little-endian words, as far as each fits. */
export interface AreaWindow {
  readonly halves: Uint16Array;
  readonly words: Uint32Array;
}

/** The three areas of a queue (§2.6). */
export interface RingWindows {
  readonly descriptor: AreaWindow;
  readonly driver: AreaWindow;
  readonly device: AreaWindow;
}

/** The specification's requirements for an area. */
export interface AreaRule {
  readonly name: string;
  /** Of the first byte's guest physical address. */
  readonly alignment: number;
  /** Bytes. */
  readonly length: number;
  /** The device writes there as well. */
  readonly written: boolean;
  /** For the error. */
  readonly clause: string;
}

/**
 * Checks the placement of an area.
 * @param queue index of the queue, for the error
 * @returns the area's offset in guest RAM
 * @throws PeerError when the area is misaligned or not in RAM
 */
export function placeArea(memory: GuestMemory, queue: number, gpa: number, rule: AreaRule): number {
  const place = `queue ${queue}: the ${rule.name} at 0x${gpa.toString(16)}`;
  if (gpa % rule.alignment !== 0) {
    throw new PeerError(
      'E_QUEUE_ALIGNMENT',
      `${place} is not aligned to ${rule.alignment} bytes (virtio 1.3 ${rule.clause})`,
    );
  }
  const offset = memory.offset(gpa, rule.length, rule.written);
  if (offset < 0) {
    throw new PeerError(
      'E_QUEUE_ADDRESS',
      `${place}, ${rule.length} bytes long, is not in guest RAM (virtio 1.3 §2.6)`,
    );
  }
  return offset;
}

/** Opens an area; the 32-bit words of one that is only aligned to 2 bytes are empty. As `placeArea`. */
export function openArea(
  memory: GuestMemory,
  queue: number,
  gpa: number,
  rule: AreaRule,
): AreaWindow {
  const offset = placeArea(memory, queue, gpa, rule);
  const { buffer, byteOffset } = memory.bytes(offset, rule.length);
  const words = rule.alignment % 4 === 0 ? Math.floor(rule.length / 4) : 0;
  return {
    halves: new Uint16Array(buffer, byteOffset, Math.floor(rule.length / 2)),
    words: words === 0 ? new Uint32Array() : new Uint32Array(buffer, byteOffset, words),
  };
}
