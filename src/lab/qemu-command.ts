/** The command lines of the emulated KVM host: QEMU's and those of its file servers. */

import { AGENT_PORT_NAME } from '../agent/protocol.ts';

/** A folder of the host that the lab sees under the same path. */
export interface Share {
  readonly tag: string;
  readonly path: string;
  /** Whether the lab can change nothing in it, also not by asking its server. */
  readonly readOnly: boolean;
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

/**
 * One virtiofsd for one share.
 * @param source where the share is mounted for it
 * @param fd its descriptor of a socket that listens
 */
export function virtiofsdCommand(
  virtiofsd: string,
  share: Share,
  source: string,
  fd: number,
): string[] {
  const cache = share.still ? 'always' : 'auto';
  return [
    virtiofsd,
    `--fd=${fd}`,
    '-o',
    `source=${source.replaceAll(',', '\\,')},cache=${cache},sandbox=chroot`,
  ];
}

/** Descriptors that QEMU inherits: it opens none of our files itself. */
export interface QemuFds {
  readonly kernel: number;
  readonly initrd: number;
  /** One end of a stream; the agent's client has the other. */
  readonly agent: number;
  /** Sockets that are connected to the shares' servers, in the shares' order. */
  readonly shares: readonly number[];
}

/** TCG emulates AMD's SVM with nested paging: a true /dev/kvm on any host. */
export function qemuCommand(
  qemu: string,
  shape: MachineShape,
  shares: readonly Share[],
  fds: QemuFds,
): string[] {
  const devices = shares.flatMap(({ tag }, index) => [
    '-chardev',
    `socket,id=${tag},fd=${fds.shares[index]}`,
    '-device',
    `vhost-user-fs-pci,chardev=${tag},tag=${tag},queue-size=1024`,
  ]);
  return [
    qemu,
    ...['-sandbox', 'on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny'],
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
    ...['-kernel', `/dev/fd/${fds.kernel}`, '-initrd', `/dev/fd/${fds.initrd}`],
    ...['-append', kernelCommandLine(shape.kernelArgs)],
    ...['-device', 'virtio-serial-pci'],
    ...['-chardev', `socket,id=agent,fd=${fds.agent}`],
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
