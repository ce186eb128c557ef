/** Settings of the host's network interfaces, by the ioctls of netdevice(7). */
import * as tun from '../abi/tun.ts';
import { Closeable } from './cleanup-stack.ts';
import { Fd } from './fd.ts';
import { NativeMemory } from './native-memory.ts';
import * as sys from './syscall.ts';

const SYS_socket = 41;
const UNION = tun.ifreq.ifr_ifru.offset;

/** A `struct ifreq` that names an interface; the union is zero. */
export function interfaceRequest(name: string): NativeMemory {
  const request = new NativeMemory(tun.ifreq.size);
  new TextEncoder().encodeInto(name, request.bytes.subarray(0, tun.IFNAMSIZ - 1));
  return request;
}

/** An interface by its name. Each method throws a HostError when the kernel refuses. */
export class NetworkInterface extends Closeable {
  readonly name: string;
  readonly #socket: Fd;

  constructor(name: string) {
    super();
    this.name = name;
    const fd = sys.syscall(SYS_socket, tun.AF_INET, tun.SOCK_DGRAM | tun.SOCK_CLOEXEC, 0);
    this.#socket = new Fd(sys.check(fd, 'socket', 'an AF_INET socket'));
  }

  /** Largest packet in bytes, without the Ethernet header. */
  get mtu(): number {
    return this.#call(tun.SIOCGIFMTU, 'SIOCGIFMTU').view.getInt32(UNION, true);
  }

  set mtu(bytes: number) {
    this.#call(tun.SIOCSIFMTU, 'SIOCSIFMTU', (view) => view.setInt32(UNION, bytes, true));
  }

  get up(): boolean {
    return (this.#flags() & tun.IFF_UP) !== 0;
  }

  set up(up: boolean) {
    const flags = up ? this.#flags() | tun.IFF_UP : this.#flags() & ~tun.IFF_UP;
    this.#call(tun.SIOCSIFFLAGS, 'SIOCSIFFLAGS', (view) => view.setUint16(UNION, flags, true));
  }

  /**
   * Gives the interface its IPv4 address.
   * @param address four bytes
   * @param prefixLength bits of the network, 0 to 32
   */
  setAddress(address: readonly number[], prefixLength: number): void {
    const mask = prefixLength === 0 ? 0 : (-1 << (32 - prefixLength)) >>> 0;
    this.#call(tun.SIOCSIFADDR, 'SIOCSIFADDR', (view) => {
      view.setUint16(UNION, tun.AF_INET, true);
      for (const [i, byte] of address.entries()) view.setUint8(UNION + 4 + i, byte);
    });
    this.#call(tun.SIOCSIFNETMASK, 'SIOCSIFNETMASK', (view) => {
      view.setUint16(UNION, tun.AF_INET, true);
      view.setUint32(UNION + 4, mask, false);
    });
  }

  close(): void {
    this.#socket.close();
  }

  #flags(): number {
    return this.#call(tun.SIOCGIFFLAGS, 'SIOCGIFFLAGS').view.getUint16(UNION, true);
  }

  #call(request: number, call: string, fill?: (view: DataView) => void): NativeMemory {
    const argument = interfaceRequest(this.name);
    fill?.(argument.view);
    sys.check(sys.ioctl(this.#socket.fd, request, argument.address), call, this.name);
    return argument;
  }
}
