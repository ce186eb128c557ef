/** The options of a machine. Checked once, by `resolveOptions`, into a complete, frozen object. */
import type { BootProtocol } from '../boot/boot.ts';
import type { SmbiosOptions } from '../boot/smbios.ts';
import type { KernelSeries } from '../guest/kernel.ts';
import type { GuestImageName } from '../guest/recipe.ts';
import type { MachineDeviceOptions } from '../virtio/device-type.ts';

/** Everything that makes up a machine; its devices' options are those of their types. */
export interface MachineOptions extends MachineDeviceOptions {
  /** Path of a bzImage or an ELF vmlinux. Either this or `guest` is required. */
  readonly kernel?: string;
  /**
   * A guest image, which replaces `kernel` and `initrd`; built when it is not in the cache, which takes a minute
   * (docs/guests.md).
   */
  readonly guest?: GuestImageName;
  /** The kernel of `guest`. Default 6.12. */
  readonly guestKernel?: KernelSeries;
  /** Path of an initial RAM disk. Default: that of `guest`, else none. */
  readonly initrd?: string;
  /** Kernel command line. Default: console on hvc0, early console on ttyS0. */
  readonly commandLine?: string;
  /**
   * How the kernel is entered. Default `auto`: PVH where the kernel supports it, else Linux's 64-bit or
   * 32-bit protocol. `linux64` or `linux32` on a bzImage starts the compressed kernel, which
   * unpacks itself and chooses its address at random (KASLR).
   */
  readonly bootProtocol?: BootProtocol;
  /** The SMBIOS strings that describe the computer; Linux has them below /sys/class/dmi/id. */
  readonly smbios?: SmbiosOptions;
  /** Bytes of RAM, a multiple of 1 MiB, at least 32 MiB. Default 512 MiB. */
  readonly memory?: number;
  /** Back guest RAM with huge pages. Default false. */
  readonly hugePages?: boolean;
  /** vCPUs, 1 to 16. Default 1. */
  readonly cpus?: number;
  /** The most vCPUs that the machine can have while it runs (`VirtualMachine.setCpus`). Default: it keeps those that it has. */
  readonly maxCpus?: number;
  /** Features to hide from the guest, by the names of /proc/cpuinfo, e.g. `avx2`. */
  readonly hideCpuFeatures?: readonly string[];
  /** Port name of the agent that `exec` uses; null: no such port. Default `org.nodevmm.agent`. */
  readonly agent?: string | null;
  /**
   * Where drivers notify queues of PCI devices: I/O ports, or memory, for which KVM has to decode the guest's
   * instruction on some processors (docs/benchmarks.md). Default io.
   */
  readonly notify?: 'memory' | 'io';
  /**
   * Trace kicks, interrupts, requests, register accesses and exits: `VirtualMachine.traceSummary()`
   * reports what was seen. Default none. See docs/trace.md.
   */
  readonly trace?: {
    /** A file to write, which Perfetto opens. */
    readonly file?: string;
  };
  /** Check that driver and device keep virtio's rules (docs/check.md). Default false. */
  readonly check?: boolean;
  /**
   * Where the machine runs: on this host's KVM (`never`, the default), in the lab, an emulated KVM host, which needs
   * root and QEMU (`always`), or in the lab if this host's KVM cannot run Linux (`auto`). See docs/lab.md.
   */
  readonly lab?: 'never' | 'auto' | 'always';
  /**
   * Lets other processes of this user attach to the machine by this name (`connectMachine`, `nodevmm vm`): 1 to 40
   * letters, digits, dots, dashes, and underscores. Default none.
   */
  readonly name?: string;
  /**
   * Called as the guest image is built, and as the lab is prepared and booted, with what happens and a fraction of
   * the whole.
   */
  readonly onProgress?: (step: string, done: number) => void;
  /** What a reboot by the guest does: start again, or end the run. Default `restart`. */
  readonly onReboot?: 'restart' | 'exit';
}

/** How a run of a machine ended. */
export interface MachineExit {
  readonly reason:
    | 'power-off'
    | 'reboot'
    | 'panic'
    | 'watchdog'
    | 'triple-fault'
    | 'internal-error'
    | 'stopped';
  /** One line, or a register dump for internal errors. */
  readonly detail?: string;
  /** The guest powered off in response to its power button. */
  readonly asked?: boolean;
}
