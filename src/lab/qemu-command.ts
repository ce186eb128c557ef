/** The command lines of the emulated KVM host: QEMU's and those of its file servers. */

import { AGENT_PORT_NAME } from '../agent/protocol.ts';
import type { Guest } from '../guest/guests.ts';

/** A folder of the host that the lab sees under the same path. */
export interface Share {
  readonly tag: string;
  readonly path: string;
  /** The server's socket. */
  readonly socket: string;
  /** Whether the host leaves it alone: the lab may then remember all that it has seen. */
  readonly still: boolean;
}

/** The size and the extras of the emulated machine. */
export interface MachineShape {
  readonly memoryMiB: number;
  readonly cpus: number;
  /** Added to `-M q35`, e.g. `kernel-irqchip=split`. */
  readonly machine: string;
  /** More of QEMU's options, e.g. `-device e1000e`. */
  readonly qemuArgs: readonly string[];
  /** Added to the kernel's command line. */
  readonly kernelArgs: string;
}

/** One virtiofsd for one share. */
export function virtiofsdCommand(virtiofsd: string, share: Share): string[] {
  const cache = share.still ? 'always' : 'auto';
  return [
    virtiofsd,
    `--socket-path=${share.socket}`,
    '-o',
    `source=${share.path.replaceAll(',', '\\,')},cache=${cache},sandbox=chroot`,
  ];
}

/**
 * TCG emulates AMD's SVM with nested paging: a true /dev/kvm on any host.
 * @param agentSocket where QEMU listens for the agent's client
 */
export function qemuCommand(
  qemu: string,
  guest: Guest,
  shape: MachineShape,
  shares: readonly Share[],
  agentSocket: string,
): string[] {
  const devices = shares.flatMap(({ tag, socket }) => [
    '-chardev',
    `socket,id=${tag},path=${socket}`,
    '-device',
    `vhost-user-fs-pci,chardev=${tag},tag=${tag},queue-size=1024`,
  ]);
  return [
    qemu,
    ...['-accel', 'tcg,thread=multi'],
    ...['-cpu', 'EPYC,+svm,+npt'],
    ...['-M', `q35${shape.machine === '' ? '' : `,${shape.machine}`}`],
    ...['-smp', String(shape.cpus)],
    ...['-m', `${shape.memoryMiB}M`],
    // vhost-user servers map the guest's memory.
    ...['-object', `memory-backend-memfd,id=ram,size=${shape.memoryMiB}M,share=on`],
    ...['-numa', 'node,memdev=ram'],
    ...['-nodefaults', '-no-user-config', '-nographic', '-no-reboot'],
    ...['-chardev', 'stdio,id=serial,signal=off', '-serial', 'chardev:serial'],
    ...['-kernel', guest.kernel, '-initrd', guest.initrd],
    ...['-append', kernelCommandLine(shape.kernelArgs)],
    ...['-device', 'virtio-serial-pci'],
    ...['-chardev', `socket,id=agent,path=${agentSocket},server=on,wait=off`],
    ...['-device', `virtserialport,chardev=agent,name=${AGENT_PORT_NAME}`],
    ...devices,
    ...shape.qemuArgs,
  ];
}

function kernelCommandLine(more: string): string {
  // Emulated speculation needs no mitigations, which cost TCG much. The other CPUs come once
  // nothing rewrites the kernel's code any more (guests/agent/hold-kvm.c).
  const own = ['console=ttyS0', 'quiet', 'mitigations=off', 'panic=-1', 'audit=0', 'maxcpus=1'];
  return [...own, more].join(' ').trim();
}
