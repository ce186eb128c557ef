/** A lab with an IOMMU, and programs in it that use VFIO: two disks and a network card are there to be passed on. */
import { chmodSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { GuestProcess } from '../../../src/agent/command.ts';
import type { ExecResult } from '../../../src/agent/exec.ts';
import { cacheFolder } from '../../../src/guest/cache.ts';
import { buildGuest, type Guest } from '../../../src/guest/guests.ts';
import type { KernelSeries } from '../../../src/guest/kernel.ts';
import { AsyncCleanupStack, AsyncCloseable } from '../../../src/host/cleanup-stack.ts';
import { packageFolder } from '../../../src/host/package-folder.ts';
import { Lab } from '../../../src/lab/lab.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { programPath } from './host.ts';
import { vfioModules } from './vfio-modules.ts';

/** Their addresses in the lab. */
export const NVME = '0000:00:10.0';
export const CARD = '0000:00:11.0';
/** With MSI and ports; no driver of the lab has it. */
export const SATA = '0000:00:12.0';
/** What the disk on it starts with. */
export const SATA_TEXT = 'on the other disk';
/** The command, in the lab under the same path as here. */
const NODEVMM = [process.execPath, join(packageFolder, 'dist/bundle/bin/main.js')];
/** No coverage of what runs there. */
const env = { NODE_V8_COVERAGE: '' };

export class VfioLab extends AsyncCloseable {
  /** What is on the NVMe disk. */
  readonly image: string;
  readonly #lab: Lab;
  readonly #owned: AsyncCleanupStack;
  readonly #prelude: string;

  /**
   * @param devices more of the lab, as arguments of QEMU
   * @param kernel the guests'
   */
  static async boot(devices: readonly string[] = [], kernel?: KernelSeries): Promise<VfioLab> {
    await using stack = new AsyncCleanupStack();
    const folder = mkdtempSync(join(tmpdir(), 'nodevmm-vfio-'));
    stack.defer(() => rmSync(folder, { recursive: true }));
    const image = join(folder, 'nvme.raw');
    const sata = join(folder, 'sata.raw');
    // QEMU runs as an unnamed user.
    chmodSync(folder, 0o711);
    for (const [path, text] of [
      [image, ''],
      [sata, SATA_TEXT],
    ] as const) {
      writeFileSync(path, text);
      truncateSync(path, 64 * MiB);
      chmodSync(path, 0o666);
    }
    const guest = await buildGuest('tools', kernel === undefined ? {} : { kernel });
    const lab = await Lab.boot({
      machine: 'kernel-irqchip=split',
      // On a busy host the kernel's test of the timer comes to nothing, and with remapped interrupts that is a panic.
      kernelArgs: 'intel_iommu=on no_timer_check',
      qemuArgs: [
        ...['-device', 'intel-iommu,intremap=on,device-iotlb=on'],
        ...['-drive', `file=${image},if=none,id=disk,format=raw`],
        ...['-device', 'nvme,drive=disk,serial=of-the-lab,addr=0x10'],
        ...['-netdev', 'user,id=net', '-device'],
        'virtio-net-pci,netdev=net,disable-legacy=on,iommu_platform=on,ats=on,addr=0x11',
        ...['-drive', `file=${sata},if=none,id=other,format=raw`],
        ...['-device', 'ich9-ahci,id=sata,addr=0x12', '-device', 'ide-hd,drive=other,bus=sata.0'],
        ...devices,
      ],
    });
    stack.use(lab);
    return new VfioLab(lab, image, prelude(guest), stack.move());
  }

  private constructor(lab: Lab, image: string, program: string, owned: AsyncCleanupStack) {
    super();
    this.#lab = lab;
    this.image = image;
    this.#prelude = program;
    this.#owned = owned;
  }

  /** Runs a script. @returns what it printed @throws Error when its status is not 0 */
  async sh(script: string): Promise<string> {
    const { stdout, stderr, exitCode } = await this.#lab.exec(['sh', '-c', script], { env });
    if (exitCode !== 0) throw new Error(`${script}: status ${exitCode}: ${stderr.toString()}`);
    return stdout.toString().trim();
  }

  /** VFIO's modules are not loaded at first. */
  async loadModules(): Promise<void> {
    await this.sh('/run/nodevmm/busybox modprobe -a vfio-pci vfio_iommu_type1');
  }

  /** In the place of the kernel's: VFIO with device files and iommufd. */
  async loadOwnModules(): Promise<void> {
    const { kernelVersion } = await buildGuest('lab');
    const modules = await vfioModules(kernelVersion);
    const insert = modules.map((path) => `/run/nodevmm/busybox insmod ${path}`).join(' && ');
    await this.sh(`/run/nodevmm/busybox modprobe irqbypass; ${insert}`);
  }

  /** The driver that a function is bound to. */
  driverOf(address: string): Promise<string> {
    return this.sh(`basename "$(readlink /sys/bus/pci/devices/${address}/driver)"`);
  }

  /** Runs nodevmm. @param wrapper a program that runs it, and its arguments */
  nodevmm(args: readonly string[], wrapper: readonly string[] = []): Promise<ExecResult> {
    return this.#lab.exec([...wrapper, ...NODEVMM, ...args], { env });
  }

  /** `nodevmm run` with a guest that has a driver for NVMe. */
  run(...args: readonly string[]): Promise<ExecResult> {
    return this.nodevmm(['run', '--no-lab', '--guest', 'tools', ...args]);
  }

  /** Starts it, its output unseen. */
  start(...args: readonly string[]): GuestProcess {
    const argv = [...NODEVMM, 'run', '--no-lab', '--guest', 'tools', ...args];
    const child = this.#lab.spawn(argv, { env });
    child.stdout.resume();
    child.stderr.resume();
    return child;
  }

  /** Runs a program with the API; its functions are those of `prelude`. @returns what it reported */
  async steps(body: string): Promise<Map<string, string>> {
    const node = [process.execPath, '--input-type=module', '-e', this.#prelude + body];
    const { stdout, stderr, exitCode } = await this.#lab.exec(node, { env });
    // Node prints the line of an error, which may be a whole bundle.
    const text = stderr.toString();
    const why = text.length < 2000 ? text : `${text.slice(0, 1000)}\n...${text.slice(-1000)}`;
    if (exitCode !== 0) throw new Error(`status ${exitCode}: ${stdout.toString()}${why}`);
    const lines = stdout.toString().trim().split('\n');
    return new Map(lines.map((line) => JSON.parse(line) as [string, string]));
  }

  async close(): Promise<void> {
    await this.#owned.disposeAsync();
  }
}

/** The address of the lab's own card on a switch that another card shares, and of that other one. */
const [LAB, OTHER] = ['10.0.9.1', '10.0.9.2'];

/** The lab's own card on a switch that those to be passed on share. */
export class Switch {
  /** Arguments of QEMU, the lab's own card among them. */
  readonly devices: string[] = [];
  readonly #own: string;

  /** @param slot of the lab's own card @param cards devices of QEMU */
  constructor(slot: number, cards: readonly string[]) {
    this.#own = `0000:00:${slot.toString(16)}.0`;
    for (const [port, card] of [`virtio-net-pci,addr=${slot.toString(16)}`, ...cards].entries()) {
      const id = `port${port}`;
      this.devices.push('-netdev', `hubport,id=${id},hubid=0`, '-device', `${card},netdev=${id}`);
    }
  }

  /** Gives the lab's own card its address. */
  async open(lab: VfioLab): Promise<void> {
    await lab.sh('/run/nodevmm/busybox modprobe virtio_net');
    const own = await lab.sh(`ls /sys/bus/pci/devices/${this.#own}/virtio*/net`);
    await lab.sh(`ip() { /run/nodevmm/busybox ip "$@"; }
ip address add ${LAB}/24 dev ${own}; ip link set ${own} up`);
  }
}

/** For `steps`: `iperf(sh)` sends data both ways between the guest's eth0 and the lab. */
export const IPERF = `
const iperf = async (sh) => {
  const { spawn: start } = await import('node:child_process');
  const server = start(${JSON.stringify(programPath('iperf3'))}, ['-s'], { stdio: 'ignore' });
  const client = (more) => 'iperf3 -c ${LAB} --connect-timeout 20000 -n 4M ' + more + ' >/tmp/out 2>&1 || { cat /tmp/out; exit 1; }; ';
  const result = await sh(
    'ip address replace ${OTHER}/24 dev eth0; ip link set eth0 up; until ping -c 1 -W 1 ${LAB} >/dev/null; do :; done; ' +
    client('') + client('-R') + 'echo sent and received');
  server.kill();
  await once(server, 'exit');
  return result;
};
`;

/** Prints one line of JSON for each `report`. */
const prelude = ({ kernel, initrd, kernelVersion }: Guest): string => `
import { exec, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { promisify } from 'node:util';
import { VirtualMachine } from ${JSON.stringify(`${packageFolder}/dist/bundle/bin/index.js`)};
const report = (step, value) => console.log(JSON.stringify([step, String(value)]));
const host = (script) => execFileSync('sh', ['-c', script], { encoding: 'utf8' }).trim();
const locked = () => /VmLck:\\s*(\\d+) kB/.exec(readFileSync('/proc/self/status', 'latin1'))[1];
const mapped = () => readFileSync('/proc/self/maps', 'latin1').includes('vfio-device');
/** A folder with all modules of the guest's kernel, and how the guest mounts it. */
const MODULES = { tag: 'modules', source: ${JSON.stringify(cacheFolder('kernels', kernelVersion, 'modules'))}, readOnly: true };
const MOUNT = 'mount -t virtiofs modules /lib/modules/${kernelVersion}';
/** Files of VFIO and iommufd that this process has open. */
const opened = () => readdirSync('/proc/self/fd')
  .map((fd) => { try { return readlinkSync('/proc/self/fd/' + fd); } catch { return ''; } })
  .filter((path) => /^\\/dev\\/(vfio|iommu)/.test(path)).sort().join(' ');
const boot = async (vfio, append = '', more = {}, passed = {}) => {
  const vm = await VirtualMachine.create({
    kernel: ${JSON.stringify(kernel)},
    initrd: ${JSON.stringify(initrd)},
    commandLine: 'earlycon=uart8250,io,0x3f8 console=hvc0 quiet panic=-1 mitigations=off ' + append,
    memory: 384 << 20,
    vfio: vfio.map((address) => ({ address, bind: true, ...passed })),
    ...more,
  });
  vm.on('log', (text) => report('log', text));
  await vm.start();
  const sh = async (script) => {
    const { stdout, stderr, exitCode } = await vm.exec(['sh', '-ec', script]);
    return exitCode === 0 ? stdout.toString().trim() : 'status ' + exitCode + ': ' + stdout + stderr;
  };
  return { vm, sh };
};
const FIO = 'fio --name=v --filename=/dev/nvme0n1 --offset=8m --size=4m --rw=randwrite --bs=16k --direct=1 --ioengine=libaio --iodepth=8 --verify=crc32c --output-format=terse | cut -d ";" -f 5';
const PING = 'ip address add 10.0.2.15/24 dev eth0; ip link set eth0 up; sleep 1; ping -c 2 -W 20 10.0.2.2';
`;
