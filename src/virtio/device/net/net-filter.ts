/**
 * Which received packets the driver wants: MAC and VLAN filters (virtio 1.3 §5.1.6.5.1 to
 * §5.1.6.5.3).
 *
 * HOT: `accepts`. A MAC address is a 48-bit number, first byte highest.
 */

const BROADCAST = 0xffff_ffff_ffff;
/** The lowest bit of the first byte: a group address. */
const FIRST_BYTE = 2 ** 40;
const VLAN_COUNT = 4096;

/** The filters as the control queue sets them. */
export class ReceiveFilter {
  /** Accepts everything until the driver sets a filter. */
  promiscuous = true;
  allMulticast = false;
  allUnicast = false;
  noMulticast = false;
  noUnicast = false;
  noBroadcast = false;
  /** The device's own address. */
  mac: number;
  unicast: ReadonlySet<number> = new Set();
  multicast: ReadonlySet<number> = new Set();
  readonly #vlans: Uint8Array | null;

  /** @param filterVlans VIRTIO_NET_F_CTRL_VLAN: a tagged packet is wanted when its VLAN was added */
  constructor(mac: number, filterVlans: boolean) {
    this.mac = mac;
    this.#vlans = filterVlans ? new Uint8Array(VLAN_COUNT) : null;
  }

  /** @returns false when there is no such VLAN */
  setVlan(vlan: number, wanted: boolean): boolean {
    if (vlan >= VLAN_COUNT || this.#vlans === null) return false;
    this.#vlans[vlan] = wanted ? 1 : 0;
    return true;
  }

  /**
   * @param destination MAC address
   * @param vlan number in the packet's tag, -1 when it has none
   */
  accepts(destination: number, vlan: number): boolean {
    if (this.promiscuous) return true;
    if (vlan >= 0 && this.#vlans !== null && this.#vlans[vlan] === 0) return false;
    if (destination === BROADCAST) return !this.noBroadcast;
    if ((Math.floor(destination / FIRST_BYTE) & 1) === 1) {
      return !this.noMulticast && (this.allMulticast || this.multicast.has(destination));
    }
    if (this.noUnicast) return false;
    return this.allUnicast || destination === this.mac || this.unicast.has(destination);
  }
}

/** The MAC address in six bytes. */
export function macNumber(bytes: Uint8Array, at = 0): number {
  let mac = 0;
  for (let i = 0; i < 6; i++) mac = mac * 256 + (bytes[at + i] ?? 0);
  return mac;
}
