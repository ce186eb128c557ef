/** What this host offers, and how to get the rest. */
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism, freemem, totalmem } from 'node:os';
import { join } from 'node:path';
import * as cap from '../abi/kvm-constants.ts';
import { listVdpaDevices } from '../backend/vdpa-devices.ts';
import { findProgram } from '../guest/programs.ts';
import { messageParts } from '../host/errors.ts';
import { IoUring } from '../host/io-uring.ts';
import { packageFolder } from '../host/package-folder.ts';
import * as sys from '../host/syscall.ts';
import { capabilityName } from '../kvm/exit-names.ts';
import { Kvm } from '../kvm/kvm.ts';
import { probeKvm } from '../kvm/probe.ts';
import { freeHugePages } from '../memory/huge-pages.ts';
import { MiB } from '../memory/ram-layout.ts';
import { countVfio } from '../vfio/host-function.ts';

/** One line of the report. */
export interface DoctorRow {
  readonly what: string;
  /** `limited`: usable, with the restrictions in `found`. */
  readonly status: 'ok' | 'limited' | 'missing';
  /** What was found, or why it is missing. */
  readonly found: string;
  /** What it is for. */
  readonly enables: string;
  /** How to get it; empty when there is nothing to do. */
  readonly remedy: string;
}

type Finding = Pick<DoctorRow, 'status' | 'found'> & { readonly remedy?: string | undefined };

function row(what: string, enables: string, remedy: string, find: () => Finding): DoctorRow {
  const finding = find();
  const advice = finding.status === 'ok' ? '' : (finding.remedy ?? remedy);
  return { what, enables, status: finding.status, found: finding.found, remedy: advice };
}

/** Capabilities that nodevmm uses where it has them. */
const OPTIONAL_CAPABILITIES = [
  cap.KVM_CAP_TSC_DEADLINE_TIMER,
  cap.KVM_CAP_XSAVE,
  cap.KVM_CAP_XCRS,
  cap.KVM_CAP_ADJUST_CLOCK,
  cap.KVM_CAP_READONLY_MEM,
  cap.KVM_CAP_GET_TSC_KHZ,
];

function findKvm(): Finding {
  try {
    using kvm = Kvm.open();
    const missing = OPTIONAL_CAPABILITIES.filter((capability) => !kvm.check(capability));
    const lacks = missing.length > 0 ? `; lacks ${missing.map(capabilityName).join(', ')}` : '';
    return { status: 'ok', found: `API 12, up to ${kvm.maxVcpus} vCPUs${lacks}` };
  } catch (error) {
    const [found, remedy] = messageParts(error);
    return { status: 'missing', found, remedy };
  }
}

function findExecution(): Finding {
  const { usable, kind, detail, remedy } = probeKvm(true);
  if (usable) return { status: 'ok', found: detail };
  return { status: 'missing', found: kind === 'none' ? 'no KVM to try' : detail, remedy };
}

function findDevice(path: string): Finding {
  const fd = sys.open(path, sys.O_RDWR | sys.O_CLOEXEC);
  if (fd < 0) return { status: 'missing', found: `${path}: ${sys.errnoName(-fd)}` };
  sys.close(fd);
  return { status: 'ok', found: path };
}

const CAP_NET_ADMIN = 12n;

function findTun(): Finding {
  const device = findDevice('/dev/net/tun');
  if (device.status !== 'ok') return device;
  const effective = /^CapEff:\s*([0-9a-f]+)$/m.exec(readText('/proc/self/status'))?.[1] ?? '0';
  if (((BigInt(`0x${effective}`) >> CAP_NET_ADMIN) & 1n) === 1n) return device;
  return {
    status: 'limited',
    found: 'taps made before can be used, new ones not (no CAP_NET_ADMIN)',
    remedy: 'sudo ip tuntap add dev nodevmm0 mode tap user $USER, then --net tap=nodevmm0',
  };
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function findVfio(): Finding {
  const { groups, bound } = countVfio();
  if (groups === 0) {
    const remedy =
      'enable VT-d or AMD-Vi in the firmware; on Intel, boot the host with intel_iommu=on';
    return { status: 'missing', found: 'no IOMMU groups', remedy };
  }
  const device = findDevice('/dev/vfio/vfio');
  if (device.status !== 'ok' && findDevice('/dev/iommu').status !== 'ok') return device;
  const found = `${groups} IOMMU groups; bound to vfio-pci: ${bound}`;
  return { status: 'ok', found };
}

function findVdpa(): Finding {
  if (!existsSync('/sys/bus/vdpa/drivers/vhost_vdpa')) {
    return { status: 'missing', found: 'no driver vhost_vdpa' };
  }
  const devices = listVdpaDevices();
  const listed = devices.map(({ name, file, driver = 'no driver', place }) => {
    const what =
      place === 'hardware'
        ? ', in hardware: locks guest RAM, on huge pages where enough are free'
        : '';
    return `${name} (${file ?? driver}${what})`;
  });
  const found = `devices: ${listed.length === 0 ? 'none' : listed.join(', ')}`;
  if (freeHugePages() > 0 || !devices.some(({ place }) => place === 'hardware')) {
    return { status: 'ok', found };
  }
  return { status: 'limited', found, remedy: 'sysctl vm.nr_hugepages=512, as root' };
}

function findIoUring(): Finding {
  try {
    new IoUring(1, 1)[Symbol.dispose]();
    return { status: 'ok', found: 'a ring can be made' };
  } catch (error) {
    return { status: 'missing', found: messageParts(error)[0] };
  }
}

function findHugePages(): Finding {
  const info = readText('/proc/meminfo');
  const number = (name: string): number =>
    Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(info)?.[1] ?? 0);
  const free = number('HugePages_Free');
  const each = number('Hugepagesize') / 1024;
  const transparent = /\[(\w+)\]/.exec(
    readText('/sys/kernel/mm/transparent_hugepage/enabled'),
  )?.[1];
  const found = `${free} free of ${each} MiB; transparent: ${transparent ?? 'no'}`;
  return { status: free > 0 ? 'ok' : 'missing', found };
}

function softLimit(name: string): number {
  const text = new RegExp(`^${name}\\s+(\\S+)`, 'm').exec(readText('/proc/self/limits'))?.[1];
  return text === undefined || text === 'unlimited' ? Infinity : Number(text);
}

function findLimit(name: string, wanted: number, show: (value: number) => string): Finding {
  const value = softLimit(name);
  const found = value === Infinity ? 'unlimited' : show(value);
  return { status: value >= wanted ? 'ok' : 'limited', found };
}

const LOCKED_WANTED = 64 * MiB;
const FILES_WANTED = 1024;
const MEMORY_WANTED = 1024 * MiB;

function findMemory(): Finding {
  const found = `${Math.floor(freemem() / MiB)} MiB free of ${Math.floor(totalmem() / MiB)}; ${availableParallelism()} CPUs`;
  return { status: freemem() >= MEMORY_WANTED ? 'ok' : 'limited', found };
}

/** A distribution package, as src/packages.json names it. */
interface Package {
  readonly name: string;
  readonly probe: readonly string[];
  readonly for: string;
}

function packageRows(): DoctorRow[] {
  const file = join(packageFolder, 'src/packages.json');
  const packages = JSON.parse(readFileSync(file, 'utf8')) as readonly Package[];
  return packages.map(({ name, probe, for: purpose }) =>
    row(name, purpose, `apt-get install ${name}`, () => {
      const lost = probe.filter((program) => findProgram(program) === undefined);
      return lost.length === 0
        ? { status: 'ok', found: probe.map((program) => findProgram(program)).join(', ') }
        : { status: 'missing', found: `no ${lost.join(', ')}` };
    }),
  );
}

/** Checks this host, in 0.2 s; changes nothing. */
export function doctor(): DoctorRow[] {
  return [
    row('KVM', 'virtual machines', '', findKvm),
    row('guest execution', 'booting Linux without the lab', '', findExecution),
    row(
      'vhost-net',
      'network queues served by the kernel',
      'modprobe vhost_net, and join the group kvm',
      () => findDevice('/dev/vhost-net'),
    ),
    row(
      'vhost-vsock',
      'sockets between host and guest',
      'modprobe vhost_vsock, and join the group kvm',
      () => findDevice('/dev/vhost-vsock'),
    ),
    row('tun', 'networks (--net)', 'modprobe tun, as root or with CAP_NET_ADMIN', findTun),
    row(
      'VFIO',
      'PCI functions of the host in guests (--vfio)',
      'modprobe vfio-pci, as root',
      findVfio,
    ),
    row(
      'vDPA',
      'vDPA devices of the host in guests (vdpa=FILE)',
      'modprobe vhost_vdpa, as root',
      findVdpa,
    ),
    row(
      'io_uring',
      'the faster engine for disks',
      'Linux 5.10 or later, and sysctl kernel.io_uring_disabled=0',
      findIoUring,
    ),
    row(
      'huge pages',
      'RAM with fewer TLB misses (--hugepages)',
      'sysctl vm.nr_hugepages=512, as root',
      findHugePages,
    ),
    row(
      'locked memory',
      'io_uring buffers and passed-through devices',
      'ulimit -l unlimited, or memlock in /etc/security/limits.conf',
      () => findLimit('Max locked memory', LOCKED_WANTED, (bytes) => `${bytes / MiB} MiB`),
    ),
    row('open files', 'many devices and queues', 'ulimit -n 4096', () =>
      findLimit('Max open files', FILES_WANTED, String),
    ),
    row('memory', 'guest RAM', 'end other programs, or give guests less', findMemory),
    ...packageRows(),
  ];
}
