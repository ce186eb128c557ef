/** The owner of a tap: created here and removed at the end, or one that existed before. */

import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { ENODEV, ENOENT, ENXIO } from '../abi/errno.ts';
import * as tun from '../abi/tun.ts';
import { Closeable } from '../host/cleanup-stack.ts';
import { UsageError } from '../host/errors.ts';
import { Fd } from '../host/fd.ts';
import { NativeMemory } from '../host/native-memory.ts';
import { interfaceRequest, NetworkInterface } from '../host/network-interface.ts';
import * as sys from '../host/syscall.ts';

const TUN = '/dev/net/tun';
/** The kernel replaces %d by the lowest number that is free. */
const AUTOMATIC_NAME = 'nodevmm%d';
/** `struct virtio_net_hdr_v1`. */
const VNET_HEADER_SIZE = 12;
const DEFAULT_MTU = 1500;
/** So that a slow receiver drops packets, as on a wire, and never blocks the sender. */
const SEND_BUFFER = 0x7fff_ffff;

const BASE_OFFLOADS = tun.TUN_F_CSUM | tun.TUN_F_TSO4 | tun.TUN_F_TSO6 | tun.TUN_F_TSO_ECN;

/** Which tap. */
export interface TapOptions {
  /** Used when it exists, else made. Default: made, named `nodevmm` and the next free number. */
  readonly name?: string;
  /** 1 to 256. Default 1. */
  readonly queues?: number;
  /** IPv4 address and prefix length for the host's side of a tap made here, `10.0.2.1/24`. */
  readonly hostAddress?: string;
  /** For a tap made here. Default 1500. */
  readonly mtu?: number;
}

/** An open tap with its queues. */
export class Tap extends Closeable {
  readonly name: string;
  /** True when the tap vanishes with this object. */
  readonly made: boolean;
  /** TUN_F_* that the kernel can do. */
  readonly offloads: number;
  /** Bytes. */
  readonly mtu: number;
  readonly #queues: readonly Fd[];

  /** @throws UsageError when the tap cannot be used, HostError when the host fails */
  constructor(options: TapOptions = {}) {
    super();
    const { name, queues = 1 } = options;
    if (name !== undefined) checkName(name);
    const address = options.hostAddress === undefined ? null : parseAddress(options.hostAddress);
    const existing = name !== undefined && existsSync(`/sys/class/net/${name}`);
    const flags = deviceFlags(existing ? (name as string) : null, queues);
    const opened: Fd[] = [];
    try {
      let actual = name ?? AUTOMATIC_NAME;
      for (let i = 0; i < queues; i++) {
        const fd = openTun();
        opened.push(fd);
        actual = joinTap(fd.fd, actual, flags, queues);
        if (i === 0 && !existing) own(fd.fd, actual);
      }
      const first = (opened[0] as Fd).fd;
      this.name = actual;
      this.made = !existing;
      this.offloads = probeOffloads(first);
      using host = new NetworkInterface(actual);
      if (this.made) {
        if ((options.mtu ?? DEFAULT_MTU) !== DEFAULT_MTU) host.mtu = options.mtu as number;
        if (address !== null) host.setAddress(address.bytes, address.prefixLength);
        host.up = true;
      } else if (!host.up) {
        raise(host);
      }
      this.mtu = host.mtu;
      this.#queues = opened;
    } catch (error) {
      for (const fd of opened) fd.close();
      throw error;
    }
  }

  /** A descriptor for each queue, non-blocking; for `TapQueue`. */
  get fds(): readonly number[] {
    return this.#queues.map(({ fd }) => fd);
  }

  /** Plugs or unplugs the cable on the host's side. Linux 5.0, ignored before. */
  setCarrier(carrier: boolean): void {
    const fd = this.#queues[0]?.fd ?? -1;
    sys.ioctl(fd, tun.TUNSETCARRIER, int(carrier ? 1 : 0).address);
  }

  /** A tap made here is gone after it. */
  close(): void {
    for (const fd of this.#queues) fd.close();
  }
}

function checkName(name: string): void {
  if (/^[^\s/%:]{1,15}$/.test(name) && name !== '.' && name !== '..') return;
  throw new UsageError(
    'E_TAP_NAME',
    `tap name ${JSON.stringify(name)} is invalid: it must have 1 to ${tun.IFNAMSIZ - 1} characters, without spaces, /, :, or %`,
  );
}

function parseAddress(text: string): { bytes: number[]; prefixLength: number } {
  const match = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\/(\d{1,2})$/.exec(text);
  const numbers = match?.slice(1).map(Number) ?? [];
  const prefixLength = numbers[4] ?? 33;
  const bytes = numbers.slice(0, 4);
  if (prefixLength <= 32 && bytes.every((byte) => byte <= 255)) return { bytes, prefixLength };
  throw new UsageError(
    'E_HOST_ADDRESS',
    `host address ${JSON.stringify(text)} is not an IPv4 address with prefix length, such as 10.0.2.1/24`,
  );
}

/** @param existing name of the tap when it exists: its own flags decide about several queues */
function deviceFlags(existing: string | null, queues: number): number {
  const flags = tun.IFF_TAP | tun.IFF_NO_PI | tun.IFF_VNET_HDR;
  if (existing === null) return queues > 1 ? flags | tun.IFF_MULTI_QUEUE : flags;
  const path = `/sys/class/net/${existing}/tun_flags`;
  const own = existsSync(path) ? Number(readFileSync(path, 'utf8')) : 0;
  if ((own & tun.IFF_TAP) === 0) {
    throw new UsageError(
      'E_TAP_KIND',
      `network interface ${existing} is not a tap`,
      'use another, or one that does not exist yet',
    );
  }
  if (queues > 1 && (own & tun.IFF_MULTI_QUEUE) === 0) {
    throw new UsageError(
      'E_TAP_QUEUES',
      `tap ${existing} has one queue, not ${queues}`,
      `create it with "ip tuntap add dev ${existing} mode tap multi_queue"`,
    );
  }
  return flags | (own & tun.IFF_MULTI_QUEUE);
}

function openTun(): Fd {
  const fd = sys.open(TUN, sys.O_RDWR | sys.O_NONBLOCK | sys.O_CLOEXEC);
  const missing = fd === -ENOENT || fd === -ENXIO || fd === -ENODEV;
  const remedy = missing
    ? 'load its module with "modprobe tun"'
    : 'run as a user that may open it, or as root';
  if (fd >= 0) return new Fd(fd);
  const why = missing ? 'the kernel has no TUN/TAP driver loaded' : sys.errnoName(-fd);
  throw new UsageError('E_TUN', `cannot open ${TUN}: ${why}`, remedy);
}

/** Makes a descriptor a queue of the tap. Returns the tap's name. */
function joinTap(fd: number, name: string, flags: number, queues: number): string {
  const request = interfaceRequest(name);
  request.view.setUint16(tun.ifreq.ifr_ifru.offset, flags, true);
  const result = sys.ioctl(fd, tun.TUNSETIFF, request.address);
  const code = result < 0 ? sys.errnoName(-result) : '';
  if (code === 'EBUSY') {
    throw new UsageError(
      'E_TAP_BUSY',
      `tap ${name} is in use by another process`,
      'stop that one, or use another tap',
    );
  }
  if (code === 'EPERM') {
    const shown = name === AUTOMATIC_NAME ? 'tap0' : name;
    const multi = queues > 1 ? ' multi_queue' : '';
    throw new UsageError(
      'E_TAP_PERMISSION',
      `no permission to use tap ${shown}`,
      `as root create one for yourself, "ip tuntap add dev ${shown} mode tap${multi} user $USER && ip link set ${shown} up", and use it`,
    );
  }
  sys.check(result, 'TUNSETIFF', `tap ${name}`);
  sys.check(
    sys.ioctl(fd, tun.TUNSETVNETHDRSZ, int(VNET_HEADER_SIZE).address),
    'TUNSETVNETHDRSZ',
    name,
  );
  sys.check(sys.ioctl(fd, tun.TUNSETVNETLE, int(1).address), 'TUNSETVNETLE', name);
  sys.check(sys.ioctl(fd, tun.TUNSETSNDBUF, int(SEND_BUFFER).address), 'TUNSETSNDBUF', name);
  const actual = request.bytes.subarray(0, tun.IFNAMSIZ);
  return new TextDecoder().decode(actual.subarray(0, actual.indexOf(0)));
}

/** A tap without an owner lets every user of the host join it while it has room for another queue. */
function own(fd: number, name: string): void {
  sys.check(sys.ioctl(fd, tun.TUNSETOWNER, process.geteuid?.() ?? 0), 'TUNSETOWNER', `tap ${name}`);
}

/** Finds what the kernel can do by asking for it; leaves all of it off. */
function probeOffloads(fd: number): number {
  const found = [
    BASE_OFFLOADS | tun.TUN_F_USO4 | tun.TUN_F_USO6,
    BASE_OFFLOADS,
    tun.TUN_F_CSUM,
  ].find((offloads) => sys.ioctl(fd, tun.TUNSETOFFLOAD, offloads) === 0);
  sys.ioctl(fd, tun.TUNSETOFFLOAD, 0);
  return found ?? 0;
}

/** Brings an existing tap up, which its owner may lack the right to. */
function raise(host: NetworkInterface): void {
  try {
    host.up = true;
  } catch (cause) {
    throw new UsageError(
      'E_TAP_DOWN',
      `tap ${host.name} is down`,
      `as root run "ip link set ${host.name} up"`,
      { cause },
    );
  }
}

function int(value: number): NativeMemory {
  const memory = new NativeMemory(4);
  memory.view.setInt32(0, value, true);
  return memory;
}

/** Six bytes of `52:54:00:12:34:56`. @throws UsageError when it is not the address of one device */
export function parseMac(text: string): Uint8Array {
  const valid = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text);
  const bytes = Uint8Array.from(text.split(':'), (part) => Number.parseInt(part, 16));
  if (valid && ((bytes[0] ?? 1) & 1) === 0 && bytes.some((byte) => byte !== 0)) return bytes;
  throw new UsageError(
    'E_NET_MAC',
    `MAC address ${JSON.stringify(text)} is not a unicast address, such as 52:54:00:12:34:56`,
  );
}

/** The same for the same name, so that a guest's configuration keeps fitting. */
export function generateMac(tapName: string): Uint8Array {
  const bytes = new Uint8Array(createHash('sha256').update(`nodevmm ${tapName}`).digest()).slice(
    0,
    6,
  );
  // Locally administered, one device.
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 2;
  return bytes;
}

/** `52:54:00:12:34:56` of six bytes. */
export function formatMac(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}
