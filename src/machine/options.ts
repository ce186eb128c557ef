/** What a caller may ask of a machine. Checked once, by `resolveOptions`, into a complete, frozen object. */
import type { BootProtocol } from '../boot/boot.ts';
import type { SmbiosOptions } from '../boot/smbios-options.ts';
import type { VirtioDevice } from '../virtio/device.ts';
import type { DeviceFactory } from '../virtio/device-sdk/definition.ts';

/** Ring features that may be switched for each device, to measure what each is worth (virtio 1.3 §6). */
export interface RingOptions {
  /** Offer packed queues, VIRTIO_F_RING_PACKED. Default false. */
  readonly packed?: boolean;
  /** Offer VIRTIO_F_INDIRECT_DESC. Default true. */
  readonly indirect?: boolean;
  /** Offer VIRTIO_F_EVENT_IDX. Default true. */
  readonly eventIdx?: boolean;
  /** Offer VIRTIO_F_IN_ORDER. Default false. */
  readonly inOrder?: boolean;
  /** Offer VIRTIO_F_NOTIFICATION_DATA. Default false. */
  readonly notificationData?: boolean;
  /** Offer VIRTIO_F_RING_RESET. Default true. */
  readonly ringReset?: boolean;
  /** Descriptors of each queue, a power of two. Default: the device's own choice. */
  readonly queueSize?: number;
}

/**
 * What carries a virtio device: a function on the PCI bus, or a window of memory (virtio 1.3 §4.1,
 * §4.2; docs/mmio.md).
 */
export type TransportName = 'pci' | 'mmio';

/** Whether the host kernel serves a device's queues. */
export type VhostMode = 'on' | 'off' | 'auto';

/** A disk: a raw file or a block device. */
export interface DiskOptions {
  readonly path: string;
  /** Default false. */
  readonly readOnly?: boolean;
  /** Request queues, 1 to 16. Default 1. */
  readonly queues?: number;
  /** At most 20 bytes of ASCII, what VIRTIO_BLK_T_GET_ID returns. Default `nodevmm-N`. */
  readonly serial?: string;
  /** Open with O_DIRECT. Default false. */
  readonly direct?: boolean;
  /**
   * The unit in which the guest addresses the disk, its "logical block size": 512, 1024, 2048 or 4096
   * bytes. Default: 512, or what the block device or, with `direct`, the file system demands.
   */
  readonly blockSize?: number;
  /** How requests reach the file. Default: what measures faster on this host. */
  readonly engine?: 'sync' | 'io_uring';
  /** Default: that of the machine. */
  readonly transport?: TransportName;
  readonly ring?: RingOptions;
}

/** A network interface on a tap. */
export interface NetOptions {
  /**
   * What the guest sees: a virtio device, or an Intel 82540EM, each of whose register accesses is
   * an exit; the latter takes `tap`, `mac`, `hostAddress` and `mtu` only. Default `virtio`.
   */
  readonly model?: 'virtio' | 'e1000';
  /** Name of the tap: used when it exists, else made and removed at the end. Default: the next free `nodevmmN`. */
  readonly tap?: string;
  /** MAC address, `52:54:00:12:34:56`. Default: a locally administered one made from the tap's name. */
  readonly mac?: string;
  /** Queue pairs, 1 to 8. Default 1. */
  readonly queues?: number;
  /** Address that the host's side of a tap made here gets, e.g. `10.0.2.1/24`. Default none. */
  readonly hostAddress?: string;
  /** Default 1500. */
  readonly mtu?: number;
  /** Offer checksum and segmentation offloads. Default true. */
  readonly offloads?: boolean;
  /** Offer VIRTIO_NET_F_MRG_RXBUF. Default true. */
  readonly mergeableBuffers?: boolean;
  /**
   * Whether the host kernel's vhost-net moves the packets, once the driver is up; `auto`: when it
   * can. Ring features that it cannot serve are not offered then. Default `off`.
   */
  readonly vhost?: VhostMode;
  /** Default: that of the machine. */
  readonly transport?: TransportName;
  readonly ring?: RingOptions;
}

/** A folder of the host that the guest mounts: `mount -t virtiofs TAG /mnt`. */
export interface FileSystemOptions {
  /** What the guest mounts it by, 1 to 36 bytes. */
  readonly tag: string;
  /** The folder. */
  readonly source: string;
  /** The guest can change nothing in it. Default false. */
  readonly readOnly?: boolean;
  /**
   * Share what is mounted below the folder as well: the guest shows each mount as a file system of its own.
   * Default false: it finds an empty folder there.
   */
  readonly submounts?: boolean;
  /**
   * What becomes of extended attributes that mean something to the host, as `security.capability` and
   * `trusted.*`: `mapped` keeps them under names that do not, `passthrough` sets them as they are, if the process may.
   * POSIX ACLs and `user.*` are the host's in both. Default `mapped`.
   */
  readonly xattr?: 'mapped' | 'passthrough';
  /** The guest may make device nodes, which are made on the host, if the process may. Default false. */
  readonly mknod?: boolean;
  /** Request queues, 1 to 16. Default 1. */
  readonly queues?: number;
  /** Default: that of the machine. */
  readonly transport?: TransportName;
  readonly ring?: RingOptions;
}

/** A socket device: stream connections between programs of the guest and of the host. */
export interface VsockOptions {
  /** The guest's context ID, 3 to 2^32 - 2. */
  readonly cid: number;
  /**
   * Unix socket that is made: who connects and writes `CONNECT PORT\n` reaches that port of the
   * guest. Guests that connect to port N of the host reach who listens on `PATH_N`. May be left
   * out with `vhost: 'on'`. Only this user and root can connect to it.
   */
  readonly path?: string;
  /** User ID of who may listen on `PATH_N`, besides root and this user. */
  readonly peerUid?: number;
  /**
   * Whether the host kernel's vhost-vsock serves the device: programs of the host use AF_VSOCK then,
   * and the unix sockets refuse. `auto`: when it can. Default `off`.
   */
  readonly vhost?: VhostMode;
  /** Default: that of the machine. */
  readonly transport?: TransportName;
  readonly ring?: RingOptions;
}

/** How a device is carried. */
export interface CarriedOptions {
  /** Default: that of the machine. */
  readonly transport?: TransportName;
  readonly ring?: RingOptions;
}

/** A device of your own from a file. */
export interface ModuleDeviceOptions {
  /** Path of a TypeScript or JavaScript file whose default export is `defineDevice(...)`. */
  readonly module: string;
  /** For the file's own use. */
  readonly options?: Readonly<Record<string, string>>;
  /** Where its functions run. Default `main`. */
  readonly thread?: 'main' | 'worker';
  /** Go on with the file as it is whenever it, or one that it imports, is saved. Default false. */
  readonly watch?: boolean;
}

/** A device of your own; see docs/devices.md. */
export type OwnDeviceOptions = CarriedOptions &
  (
    | ModuleDeviceOptions
    | {
        /** What `defineDevice` returned; its functions run on the main thread. */
        readonly definition: DeviceFactory;
        readonly options?: Readonly<Record<string, string>>;
      }
    | { readonly device: VirtioDevice }
  );

/** A device whose queues another process serves, over the vhost-user protocol; see docs/vhost-user.md. */
export interface VhostUserOptions extends CarriedOptions {
  /** What the device is: by name, or its device ID (virtio 1.3 §5) where the backend has the rest. */
  readonly type: 'net' | 'blk' | 'fs' | number;
  /** Path of the unix socket between the two. */
  readonly socket: string;
  /** Listen on the socket, and wait for the backend to connect. Default false: it listens. */
  readonly server?: boolean;
  /**
   * `net`: queue pairs. `blk` and `fs`: request queues. By device ID: all queues. Default: what
   * the backend's configuration says of a disk, else 1.
   */
  readonly queues?: number;
  /** `fs`: what the guest mounts it by, at most 36 bytes. */
  readonly tag?: string;
  /** `net`: MAC address. Default: the backend's, else one made from the socket's path. */
  readonly mac?: string;
  /** By device ID: bytes of the configuration space, asked of the backend. Default 0. */
  readonly configSize?: number;
  /** How long the backend may take for an answer, in milliseconds. Default 10000. */
  readonly timeoutMs?: number;
  /** User ID of a backend that is neither root's nor this user's: it gets all of the guest's memory. */
  readonly peerUid?: number;
}

/** Everything that a machine is made of. */
export interface MachineOptions {
  /** Path of a bzImage or an ELF vmlinux. */
  readonly kernel: string;
  /** Path of an initial RAM disk. */
  readonly initrd?: string;
  /** Kernel command line. Default: console on hvc0, early console on ttyS0. */
  readonly commandLine?: string;
  /**
   * How the kernel is entered. Default `auto`: PVH where the kernel has it, else Linux' 64-bit or
   * 32-bit protocol. `linux64` or `linux32` on a bzImage starts the compressed kernel, which
   * unpacks itself and chooses its address at random (KASLR).
   */
  readonly bootProtocol?: BootProtocol;
  /** What the guest is told of its computer; Linux has it below /sys/class/dmi/id. */
  readonly smbios?: SmbiosOptions;
  /** Bytes of RAM, a multiple of 1 MiB, at least 32 MiB. Default 512 MiB. */
  readonly memory?: number;
  /** Back guest RAM with huge pages. Default false. */
  readonly hugePages?: boolean;
  /** vCPUs, 1 to 16. Default 1. */
  readonly cpus?: number;
  /** Features to hide from the guest, by the names of /proc/cpuinfo, e.g. `avx2`. */
  readonly hideCpuFeatures?: readonly string[];
  readonly disks?: readonly DiskOptions[];
  readonly nets?: readonly NetOptions[];
  /** Folders that are shared with the guest; see docs/fs.md. */
  readonly fileSystems?: readonly FileSystemOptions[];
  readonly devices?: readonly OwnDeviceOptions[];
  /** Devices that other processes serve; guest RAM is then a file that they map. */
  readonly vhostUser?: readonly VhostUserOptions[];
  /** A virtio entropy device. Default true. */
  readonly rng?: boolean | CarriedOptions;
  readonly console?: CarriedOptions;
  /** Default none. */
  readonly vsock?: VsockOptions;
  /** Port name of the agent that `exec` talks to; null: no such port. Default `org.nodevmm.agent`. */
  readonly agent?: string | null;
  /** What carries the virtio devices that do not say. Default `pci`. */
  readonly transport?: TransportName;
  /**
   * Where drivers notify queues of PCI devices: I/O ports, or memory, for which KVM has to decode the guest's
   * instruction on some processors (docs/benchmarks.md). Default io.
   */
  readonly notify?: 'memory' | 'io';
  /**
   * Trace kicks, interrupts, requests, register accesses and exits: `VirtualMachine.traceSummary`
   * tells what was seen. Default none. See docs/trace.md.
   */
  readonly trace?: {
    /** A file to write, which Perfetto opens. */
    readonly file?: string;
  };
  /** Check that driver and device keep virtio's rules (docs/check.md). Default false. */
  readonly check?: boolean;
  /** What a reboot from inside does: start again, or end the run. Default `restart`. */
  readonly onReboot?: 'restart' | 'exit';
}

/** How a run of a machine ended. */
export interface MachineExit {
  readonly reason: 'power-off' | 'reboot' | 'panic' | 'triple-fault' | 'internal-error' | 'stopped';
  /** One line, or a register dump for internal errors. */
  readonly detail?: string;
  /** The guest powered off after it was asked to by its power button. */
  readonly asked?: boolean;
}
