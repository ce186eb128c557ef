/** linux/if_tun.h and the parts of linux/if.h and linux/sockios.h that taps need. */
import { _IOR, _IOW, struct } from './struct.ts';

export const TUNSETIFF = _IOW(0x54, 202, 4);
export const TUNSETOWNER = _IOW(0x54, 204, 4);
export const TUNGETFEATURES = _IOR(0x54, 207, 4);
export const TUNSETOFFLOAD = _IOW(0x54, 208, 4);
export const TUNSETSNDBUF = _IOW(0x54, 212, 4);
export const TUNSETVNETHDRSZ = _IOW(0x54, 216, 4);
export const TUNSETQUEUE = _IOW(0x54, 217, 4);
export const TUNSETVNETLE = _IOW(0x54, 220, 4);
export const TUNSETCARRIER = _IOW(0x54, 226, 4);

export const IFF_TAP = 0x0002;
export const IFF_NO_PI = 0x1000;
export const IFF_VNET_HDR = 0x4000;
export const IFF_MULTI_QUEUE = 0x0100;
export const IFF_ATTACH_QUEUE = 0x0200;
export const IFF_DETACH_QUEUE = 0x0400;

/** What the reader of a tap can take, for TUNSETOFFLOAD. */
export const TUN_F_CSUM = 0x01;
export const TUN_F_TSO4 = 0x02;
export const TUN_F_TSO6 = 0x04;
export const TUN_F_TSO_ECN = 0x08;
/** Linux 6.2. */
export const TUN_F_USO4 = 0x20;
export const TUN_F_USO6 = 0x40;

export const IFNAMSIZ = 16;
/** `struct ifreq`: the union holds flags (u16), an int, or a sockaddr; 24 bytes on 64 bits. */
export const ifreq = struct({ ifr_name: [1, IFNAMSIZ], ifr_ifru: [8, 3] });

export const SIOCGIFFLAGS = 0x8913;
export const SIOCSIFFLAGS = 0x8914;
export const SIOCSIFADDR = 0x8916;
export const SIOCSIFNETMASK = 0x891c;
export const SIOCGIFMTU = 0x8921;
export const SIOCSIFMTU = 0x8922;

export const IFF_UP = 0x1;

export const AF_INET = 2;
export const SOCK_DGRAM = 2;
export const SOCK_CLOEXEC = 0o2000000;
