/** QEMU with KVM as a subject, given the same kernel file, initramfs and devices. */
import { connect } from 'node:net';
import { join } from 'node:path';
import { AgentClient } from '../../src/agent/client.ts';
import { AGENT_PORT_NAME } from '../../src/agent/protocol.ts';
import { AsyncCleanupStack } from '../../src/host/cleanup-stack.ts';
import { TemporaryFolder } from '../../src/host/temporary-folder.ts';
import { VfioBinding } from '../../src/vfio/binding.ts';
import { HostFunction } from '../../src/vfio/host-function.ts';
import { Child } from './child.ts';
import {
  COMMAND_LINE,
  E1000_KERNEL,
  type GuestSpec,
  type IommuMode,
  iommuArguments,
  lacksQemu,
  lacksVfio,
  lacksVhostNet,
  type Nic,
  type PassedCard,
  type RunningGuest,
  type Subject,
} from './subject.ts';

const LISTENING_MS = 60_000;

/** A machine type of QEMU's, and where its virtio devices sit. */
export interface QemuMachine {
  /** Of `-M`, without the accelerator. */
  readonly type: string;
  readonly bus: 'pci' | 'mmio';
  /** Of the command line's `console=`. Default hvc0, a virtio console. */
  readonly console?: 'hvc0' | 'ttyS0';
  /** Its network interface. Default virtio, its queues served by QEMU. */
  readonly nic?: Nic;
  /** Its virtio devices are behind a virtio-iommu. */
  readonly iommu?: IommuMode;
}

export const Q35: QemuMachine = { type: 'q35', bus: 'pci' };
/** The kernel serves the queues of its network interface. */
export const Q35_VHOST: QemuMachine = { ...Q35, nic: 'vhost' };
export const Q35_IOMMU: QemuMachine = { ...Q35, iommu: 'lazy' };
export const Q35_IOMMU_STRICT: QemuMachine = { ...Q35, iommu: 'strict' };
export const Q35_E1000: QemuMachine = { ...Q35, nic: 'e1000' };
/** The form that QEMU's manual shows: virtio over MMIO. */
export const MICROVM: QemuMachine = { type: 'microvm', bus: 'mmio' };
export const MICROVM_PCI: QemuMachine = { type: 'microvm,pcie=on', bus: 'pci' };

/**
 * QEMU's command line.
 * @param agentSocket where it listens for the agent's client; undefined for a guest without agent
 */
export function qemuCommand(
  { type, bus, console = 'hvc0', nic = 'virtio', iommu }: QemuMachine,
  spec: GuestSpec,
  agentSocket: string | undefined,
): string[] {
  const behind = iommu === undefined ? '' : ',disable-legacy=on,iommu_platform=on';
  const device = (name: string, properties = ''): string[] => [
    '-device',
    `virtio-${name}-${bus === 'pci' ? 'pci' : 'device'}${properties}${behind}`,
  ];
  const commandLine = COMMAND_LINE.replace('hvc0', console);
  const isShared = [spec, ...(spec.disks ?? [])].some(
    ({ vhostUser, vdpa }) => vhostUser !== undefined || vdpa !== undefined,
  );
  const wantsMemfd = isShared && spec.vdpaInHardware !== true;
  const memory = wantsMemfd
    ? ['-object', `memory-backend-memfd,id=ram,size=${spec.memoryMiB}M,share=on`]
    : [];
  return [
    'qemu-system-x86_64',
    // Names the threads, for the profile.
    ...['-name', 'bench,debug-threads=on'],
    ...['-M', `${type},accel=kvm${memory.length === 0 ? '' : ',memory-backend=ram'}`],
    ...['-cpu', 'host', '-smp', '1', '-m', `${spec.memoryMiB}M`],
    ...['-nodefaults', '-no-user-config', '-display', 'none', '-no-reboot'],
    ...(bus === 'mmio' ? ['-global', 'virtio-mmio.force-legacy=false'] : []),
    ...['-kernel', spec.kernel, '-initrd', spec.initrd],
    ...['-append', [commandLine, spec.append ?? '', iommuArguments(iommu)].join(' ').trim()],
    // Before what is behind it.
    ...(iommu === undefined ? [] : ['-device', 'virtio-iommu-pci']),
    ...['-chardev', 'stdio,id=console,signal=off'],
    ...(console === 'ttyS0' ? ['-serial', 'chardev:console'] : []),
    ...device('serial'),
    ...(console === 'hvc0' ? ['-device', 'virtconsole,chardev=console'] : []),
    ...(agentSocket === undefined
      ? []
      : [
          ...['-chardev', `socket,id=agent,path=${agentSocket},server=on,wait=off`],
          ...['-device', `virtserialport,chardev=agent,name=${AGENT_PORT_NAME}`],
        ]),
    ...device('rng'),
    ...(spec.disks ?? []).flatMap(({ path, direct, vhostUser }, i) =>
      vhostUser === undefined
        ? [
            ...['-object', `iothread,id=iothread${i}`],
            '-drive',
            `if=none,id=disk${i},file=${path},format=raw,readonly=on,aio=io_uring,cache=${direct ? 'none' : 'writeback'}`,
            ...device('blk', `,drive=disk${i},iothread=iothread${i}`),
          ]
        : [
            ...['-chardev', `socket,id=disk${i},path=${vhostUser}`],
            ...['-device', `vhost-user-blk-pci,chardev=disk${i}`],
          ],
    ),
    ...memory,
    ...(spec.vdpa === undefined
      ? []
      : ['-netdev', `vhost-vdpa,id=net0,vhostdev=${spec.vdpa}`, ...device('net', ',netdev=net0')]),
    ...(spec.vfio === undefined ? [] : ['-device', `vfio-pci,host=${spec.vfio}`]),
    ...(spec.vhostUser === undefined
      ? []
      : [
          ...['-chardev', `socket,id=backend,path=${spec.vhostUser}`],
          ...['-netdev', 'vhost-user,id=net0,chardev=backend', ...device('net', ',netdev=net0')],
        ]),
    ...(spec.tap === undefined
      ? []
      : [
          '-netdev',
          `tap,id=net0,ifname=${spec.tap},script=no,downscript=no,vhost=${nic === 'vhost' ? 'on' : 'off'}`,
          ...(nic === 'e1000' ? ['-device', 'e1000,netdev=net0'] : device('net', ',netdev=net0')),
        ]),
  ];
}

/** QEMU with one of its machine types. @param passes a PCI function of the host */
export function qemu(name: string, machine: QemuMachine, passes?: PassedCard): Subject {
  return {
    name,
    ...(passes === undefined ? {} : { passes }),
    reference: true,
    ...(machine.nic === 'e1000' || passes === 'e1000e' ? { kernel: E1000_KERNEL } : {}),
    lacking: () =>
      lacksQemu() ??
      (machine.nic === 'vhost' ? lacksVhostNet() : passes === undefined ? undefined : lacksVfio()),
    boot: (spec) => boot(machine, spec),
  };
}

async function boot(machine: QemuMachine, spec: GuestSpec): Promise<RunningGuest> {
  await using opened = new AsyncCleanupStack();
  const socket = join(opened.use(new TemporaryFolder('nodevmm-bench-')).path, 'agent');
  if (spec.vfio !== undefined) opened.use(new VfioBinding(new HostFunction(spec.vfio), true));
  const child = opened.use(new Child(qemuCommand(machine, spec, socket)));
  await child.listens(socket, LISTENING_MS);
  const agent = opened.use(new AgentClient(connect(socket)));
  await child.during('the agent', agent.ready());
  const resources = opened.move();
  return {
    pid: child.process.pid ?? 0,
    exec: (argv, timeoutMs) => child.during(argv[0] ?? '', agent.exec(argv), timeoutMs),
    [Symbol.asyncDispose]: () => resources.disposeAsync(),
  };
}
