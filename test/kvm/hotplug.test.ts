/** Devices that come and go, as a guest of a few bytes sees them: registers, configuration space, BARs. */
import { once } from 'node:events';
import { readdirSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t, { type Test } from 'tap';
import { RawFile } from '../../src/backend/raw-file.ts';
import type { MachineOptions } from '../../src/machine/options.ts';
import { VirtualMachine } from '../../src/machine/virtual-machine.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import {
  CPU_HOTPLUG_PORT,
  PCI_CONFIG_ADDRESS_PORT,
  PCI_HOTPLUG_PORT,
  RESET_PORT,
  RESET_VALUE,
} from '../../src/platform/layout.ts';
import { elfKernel, KERNEL_GPA } from '../support/fixtures/kernel-image.ts';
import { testFolder } from '../support/rigs/files.ts';
import { PORT_GUEST, type PortCommand, portRequest } from './port-guest.ts';
import { kvmMissing } from './tiny-guest.ts';

const skip = kvmMissing();
const folder = testFolder(t);
const [UP, DOWN, EJECT] = [0, 4, 8].map((offset) => PCI_HOTPLUG_PORT + offset) as [
  number,
  number,
  number,
];
const ABSENT = 0xffff_ffff;
const VIRTIO_BLK = 0x1042_1af4;
const VIRTIO_RNG = 0x1044_1af4;
/** After the host bridge and the console. */
const FIRST_SLOT = 2;

const kernel = path.join(folder, 'kernel');
const code = Uint8Array.from(PORT_GUEST);
writeFileSync(
  kernel,
  elfKernel({ segments: [{ paddr: KERNEL_GPA, bytes: code }], pvhEntry: KERNEL_GPA }),
);

let files = 0;
function diskFile(): string {
  const file = path.join(folder, `disk${files++}.raw`);
  writeFileSync(file, '');
  truncateSync(file, MiB);
  return file;
}

/** A machine whose guest does what the test says. */
class Driven implements AsyncDisposable {
  readonly vm: VirtualMachine;
  readonly logs: string[] = [];
  #got = Buffer.alloc(0);
  #wake = (): void => {};

  static async start(options: Partial<MachineOptions> = {}): Promise<Driven> {
    const vm = await VirtualMachine.create({ kernel, memory: 64 * MiB, rng: false, ...options });
    const driven = new Driven(vm);
    await vm.start();
    await driven.up();
    return driven;
  }

  private constructor(vm: VirtualMachine) {
    this.vm = vm;
    vm.on('log', (line) => this.logs.push(line));
    vm.serial.on('data', (bytes: Buffer) => {
      this.#got = Buffer.concat([this.#got, bytes]);
      this.#wake();
    });
  }

  /** Resolves when the guest is up, perhaps again. */
  async up(): Promise<void> {
    t.equal((await this.#take(1)).toString(), '.');
  }

  async read(port: number): Promise<number> {
    return await this.#ask('i', port);
  }

  async write(port: number, value: number): Promise<void> {
    await this.#ask('o', port, value);
  }

  async readMemory(address: number): Promise<number> {
    return await this.#ask('m', address);
  }

  /** @param bytes 4, 2, or 1 */
  async writeMemory(address: number, value: number, bytes = 4): Promise<void> {
    await this.#ask(bytes === 4 ? 'M' : bytes === 2 ? 'H' : 'C', address, value);
  }

  /** Resets the machine. */
  async reset(): Promise<void> {
    const rebooted = once(this.vm, 'reboot');
    this.vm.serial.write(portRequest('b', RESET_PORT, RESET_VALUE));
    await rebooted;
    // The answer to the request may have come before.
    const dot = await this.#take(1);
    if (dot.toString() !== '.') await this.#take(4);
  }

  /** A double word of configuration space. */
  async config(slot: number, offset = 0): Promise<number> {
    await this.write(PCI_CONFIG_ADDRESS_PORT, 0x8000_0000 + slot * 0x800 + offset);
    return await this.read(PCI_CONFIG_ADDRESS_PORT + 4);
  }

  async setConfig(slot: number, offset: number, value: number): Promise<void> {
    await this.write(PCI_CONFIG_ADDRESS_PORT, 0x8000_0000 + slot * 0x800 + offset);
    await this.write(PCI_CONFIG_ADDRESS_PORT + 4, value);
  }

  async #ask(command: PortCommand, address: number, value = 0): Promise<number> {
    this.vm.serial.write(portRequest(command, address, value));
    return (await this.#take(4)).readUInt32LE(0);
  }

  async #take(length: number): Promise<Buffer> {
    while (this.#got.length < length) {
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const taken = this.#got.subarray(0, length);
    this.#got = this.#got.subarray(length);
    return taken;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.vm.close();
  }
}

/** Descriptors of this process. */
const descriptors = (): number => readdirSync('/proc/self/fd').length;

t.test('a device comes, and leaves when the guest ejects it', { skip }, async (t) => {
  await using guest = await Driven.start();
  const { vm } = guest;
  t.equal(await guest.config(FIRST_SLOT), ABSENT);
  const file = diskFile();
  t.equal(await vm.addDevice({ disks: [{ path: file }] }), 'blk0');
  t.same([...vm.datapaths.keys()], ['console0', 'blk0']);
  t.equal(await guest.read(UP), 1 << FIRST_SLOT);
  t.equal(await guest.read(EJECT), 1 << FIRST_SLOT, 'the console stays');
  t.equal(await guest.config(FIRST_SLOT), VIRTIO_BLK);
  t.equal(await guest.config(FIRST_SLOT, 0x10), 0, 'its BARs are nowhere');
  t.equal(await guest.config(FIRST_SLOT, 0x04), 0x0010_0000, 'and are not decoded');
  await guest.setConfig(FIRST_SLOT, 0x10, 0xd000_0000);
  await guest.setConfig(FIRST_SLOT, 0x04, 7);
  t.equal(await guest.readMemory(0xd000_2000), MiB / 512, 'the capacity, where the guest put it');
  t.throws(() => new RawFile({ path: file, readOnly: false, direct: false }), {
    code: 'E_DISK_LOCKED',
  });
  const removed = vm.removeDevice('blk0');
  t.equal(await guest.read(DOWN), 1 << FIRST_SLOT);
  t.equal(await guest.read(DOWN), 0);
  await guest.write(EJECT, 1 << FIRST_SLOT);
  t.equal(await guest.config(FIRST_SLOT), ABSENT, 'at once');
  await removed;
  t.same([...vm.datapaths.keys()], ['console0']);
  t.equal(await guest.readMemory(0xd000_2000), ABSENT);
  t.same([await guest.read(UP), await guest.read(DOWN), await guest.read(EJECT)], [0, 0, 0]);
  new RawFile({ path: file, readOnly: false, direct: false }).close();
  t.same(guest.logs, []);
});

const [REGISTERS, TABLE, DOORBELLS] = [0xd000_0000, 0xd001_0000, 0x2000];
const [DESCRIPTORS, BUFFER, AVAILABLE, USED] = [0x20_0000, 0x20_1000, 0x20_2000, 0x20_3000];
const LAPIC = 0xfee0_0000;
/** Of the interrupt; its bit is in the third word of the local APIC's IRR, Intel SDM volume 3A §11.8.4. */
const VECTOR = 0x41;

/** A packet through the second queue of a network device, whose interrupt is the third vector. */
async function transmit(t: Test, guest: Driven, slot: number): Promise<void> {
  for (const [offset, value] of [
    [0x10, REGISTERS],
    [0x18, TABLE],
    [0x20, DOORBELLS],
    [0x04, 7],
  ] as const) {
    await guest.setConfig(slot, offset, value);
  }
  let msix = (await guest.config(slot, 0x34)) & 0xff;
  for (let word = await guest.config(slot, msix); (word & 0xff) !== 0x11; ) {
    msix = (word >>> 8) & 0xff;
    word = await guest.config(slot, msix);
  }
  await guest.setConfig(slot, msix, 0x8000_0000);
  await guest.writeMemory(LAPIC + 0xf0, 0x1ff);
  for (const [offset, value] of [
    [0x20, LAPIC],
    [0x28, VECTOR],
    [0x2c, 0],
  ] as const) {
    await guest.writeMemory(TABLE + offset, value);
  }
  for (const [address, value] of [
    [DESCRIPTORS, BUFFER],
    [DESCRIPTORS + 8, 72],
    [DESCRIPTORS + 12, 0],
    [AVAILABLE, 0x1_0000],
    [AVAILABLE + 4, 0],
    [USED, 0],
  ] as const) {
    await guest.writeMemory(address, value);
  }
  // virtio 1.3 §3.1.1, with the offsets of §4.1.4.3.
  for (const [offset, value, bytes] of [
    [0x14, 0, 1],
    [0x14, 3, 1],
    [0x08, 1, 4],
    [0x0c, 1, 4],
    [0x14, 11, 1],
    [0x16, 1, 2],
    [0x18, 16, 2],
    [0x1a, 2, 2],
    [0x20, DESCRIPTORS, 4],
    [0x28, AVAILABLE, 4],
    [0x30, USED, 4],
    [0x1c, 1, 2],
    [0x14, 15, 1],
  ] as const) {
    await guest.writeMemory(REGISTERS + offset, value, bytes);
  }
  await guest.write(DOORBELLS + 4, 1);
  while ((await guest.readMemory(USED)) === 0);
  t.equal(await guest.readMemory(USED), 0x1_0000, 'the packet was sent');
  while (((await guest.readMemory(LAPIC + 0x220)) & (1 << (VECTOR % 32))) === 0);
  t.pass('and the driver interrupted');
}

t.test(
  'a late device is served, notified, and interrupts, as one of power-on',
  { skip },
  async (t) => {
    // Of benchmarks, and not among the documented options.
    const net = { nets: [{ backend: 'sink' }] } as object;
    {
      await using guest = await Driven.start({ cpus: 2, ...net });
      await transmit(t, guest, FIRST_SLOT);
    }
    await using guest = await Driven.start({ cpus: 2 });
    await guest.vm.addDevice({ rng: {} });
    const removed = guest.vm.removeDevice('rng0');
    await guest.write(EJECT, 1 << FIRST_SLOT);
    await removed;
    // Some of its interrupts are those of the device before, the others are new.
    await guest.vm.addDevice(net);
    await transmit(t, guest, FIRST_SLOT);
  },
);

t.test('a device of power-on leaves, another takes its place', { skip }, async (t) => {
  await using guest = await Driven.start({ disks: [{ path: diskFile() }], rng: true });
  const { vm } = guest;
  t.equal(await guest.read(EJECT), 0b1100);
  await guest.write(EJECT, 0xffff_ffff);
  await guest.write(EJECT, 0xffff_ffff);
  t.same([await guest.config(2), await guest.config(3)], [ABSENT, ABSENT]);
  t.not(await guest.config(1), ABSENT, 'the console stays, whatever the guest writes');
  while (vm.datapaths.size > 1) await once(vm, 'log');
  t.same(guest.logs, ['blk0: the guest ejected it', 'rng0: the guest ejected it']);
  t.equal(await vm.addDevice({ rng: {} }), 'rng0');
  t.equal(await guest.config(2), VIRTIO_RNG);
  const { devices } = await vm.inspect({ device: 'rng0' });
  t.match(devices, [{ name: 'console0' }, { name: 'rng0', place: 'PCI 00:02.0' }]);
});

t.test('a guest that does not answer keeps its device', { skip }, async (t) => {
  await using guest = await Driven.start();
  const { vm } = guest;
  await vm.addDevice({ disks: [{ path: diskFile() }] });
  await t.rejects(vm.removeDevice('blk0', { timeout: 1 }), {
    name: 'PeerError',
    code: 'E_EJECT',
    message: /^the guest did not give up blk0 within 0.001 s; stop using it there/,
  });
  t.equal(await guest.read(DOWN), 0, 'it is asked no longer');
  t.equal(await guest.config(FIRST_SLOT), VIRTIO_BLK);
  t.same(guest.logs, []);
  await vm.removeDevice('blk0', { surprise: true, timeout: 1 });
  t.same(guest.logs, ['blk0: the guest did not give it up; it is pulled out']);
  t.equal(await guest.config(FIRST_SLOT), ABSENT);
  t.equal(await guest.read(UP), 1, 'it is to look at the bus');
  t.equal(await vm.addDevice({ rng: {} }), 'rng0');
  t.equal(await guest.config(FIRST_SLOT), VIRTIO_RNG);
});

t.test('what was added is there after a reset, what was asked back is not', { skip }, async (t) => {
  await using guest = await Driven.start();
  const { vm } = guest;
  await vm.addDevice({ disks: [{ path: diskFile() }] });
  await vm.addDevice({ rng: {} });
  await guest.setConfig(FIRST_SLOT, 0x10, 0xd000_0000);
  await guest.setConfig(FIRST_SLOT, 0x04, 7);
  const removed = vm.removeDevice('rng0');
  await guest.reset();
  await removed;
  t.equal(await guest.config(FIRST_SLOT), VIRTIO_BLK);
  t.not(await guest.config(FIRST_SLOT, 0x10), 0, 'like any device of power-on');
  t.equal(await guest.config(FIRST_SLOT + 1), ABSENT);
  t.equal(await guest.read(UP), 0);
  t.equal(await guest.read(EJECT), 1 << FIRST_SLOT);
});

t.test('while the machine is paused, and before it starts', { skip }, async (t) => {
  const vm = await VirtualMachine.create({ kernel, memory: 64 * MiB, rng: false });
  t.equal(await vm.addDevice({ rng: true }), 'rng0');
  await vm.removeDevice('rng0');
  t.same([...vm.datapaths.keys()], ['console0']);
  await vm.close();
  await using guest = await Driven.start();
  await guest.vm.pause();
  await guest.vm.addDevice({ disks: [{ path: diskFile() }] });
  await guest.vm.addDevice({ rng: {} });
  await t.rejects(guest.vm.removeDevice('blk0'), { code: 'E_STATE' });
  await guest.vm.removeDevice('blk0', { surprise: true });
  await guest.vm.resume();
  t.equal(await guest.config(FIRST_SLOT), ABSENT);
  t.equal(await guest.config(FIRST_SLOT + 1), VIRTIO_RNG);
});

t.test('many come and go; nothing of them is left', { skip }, async (t) => {
  await using guest = await Driven.start({ cpus: 2, check: true, trace: {} });
  const { vm } = guest;
  const file = diskFile();
  const round = async (): Promise<void> => {
    await vm.addDevice({ disks: [{ path: file, queues: 4 }] });
    await guest.setConfig(FIRST_SLOT, 0x10, 0xd000_0000);
    await guest.setConfig(FIRST_SLOT, 0x04, 7);
    t.equal(await guest.readMemory(0xd000_2000), MiB / 512);
    const removed = vm.removeDevice('blk0');
    await guest.write(EJECT, 1 << FIRST_SLOT);
    await removed;
  };
  await round();
  const before = descriptors();
  for (let i = 0; i < 20; i++) await round();
  t.ok(descriptors() <= before, 'no descriptor is left');
  t.same(vm.breaches, []);
});

t.test('the bus is full at some point, and has room again', { skip }, async (t) => {
  await using guest = await Driven.start();
  const { vm } = guest;
  for (let i = 0; i < 30; i++) t.equal(await vm.addDevice({ rng: {} }), `rng${i}`);
  t.equal(await guest.read(UP), 0xffff_fffc);
  await t.rejects(vm.addDevice({ rng: {} }), { code: 'E_DEVICES' });
  t.equal(vm.datapaths.size, 31);
  await guest.write(EJECT, 0xffff_ffff);
  while (vm.datapaths.size > 1) await once(vm, 'log');
  t.equal(await vm.addDevice({ rng: {} }), 'rng0');
});

t.test('what a running machine does not get is refused in one line', { skip }, async (t) => {
  await using guest = await Driven.start();
  const { vm } = guest;
  for (const [device, code, message] of [
    [{ disks: [{ path: diskFile(), transport: 'mmio' }] }, 'E_HOTPLUG', /only the PCI bus/],
    [
      { vsock: { cid: 3, path: path.join(folder, 'vsock') } },
      'E_HOTPLUG',
      /gets no vsock; start the machine with it/,
    ],
    [{ iommu: {} }, 'E_HOTPLUG', /gets no iommu/],
    [{ disks: [{ vhostUser: { socket: '/none' } }] }, 'E_HOTPLUG', /share=shadow for blk0/],
    [{ disks: [{ path: '/nowhere' }] }, 'E_DISK_ENOENT', /no such file/],
    [{ disks: [] }, 'E_OPTION', /^0 devices were given; add one at a time/],
    [{ disks: [{ path: 'a' }], rng: {} }, 'E_OPTION', /^2 devices/],
    [{ memroy: 1 }, 'E_OPTION', /memroy/],
  ] as const) {
    await t.rejects(vm.addDevice(device as object), { name: 'UsageError', code, message });
  }
  for (const [name, message] of [
    ['console0', /^console0 stays for as long as its machine runs$/],
    ['blk7', /^this machine has no device blk7$/],
  ] as const) {
    await t.rejects(vm.removeDevice(name), { name: 'UsageError', code: 'E_DEVICE', message });
  }
  t.equal(await guest.read(UP), 0);
  t.same([...vm.datapaths.keys()], ['console0']);
});

t.test('CPUs come, and leave when the guest ejects them', { skip }, async (t) => {
  await using guest = await Driven.start({ cpus: 1, maxCpus: 4 });
  const { vm } = guest;
  const [up, down, eject] = [0, 4, 8].map((offset) => CPU_HOTPLUG_PORT + offset) as [
    number,
    number,
    number,
  ];
  t.equal(await guest.read(eject), 0, 'the first one stays');
  await vm.setCpus(3);
  t.same([await guest.read(up), await guest.read(up), await guest.read(eject)], [6, 0, 6]);
  const fewer = vm.setCpus(1);
  let asked = 0;
  while (asked === 0) asked = await guest.read(down);
  t.equal(asked, 6);
  await guest.write(eject, 6);
  t.equal(await guest.read(eject), 0, 'at once, as _STA after _EJ0 has to show');
  await fewer;
  t.same(guest.logs, []);
  await vm.setCpus(2);
  const ejected = once(vm, 'log');
  await guest.write(eject, 0xffff_ffff);
  await ejected;
  t.same(guest.logs, ['the guest ejected vCPU 1']);
  for (let round = 0; round < 5; round++) {
    await vm.setCpus(4);
    const all = vm.setCpus(1);
    await guest.write(eject, 0xffff_ffff);
    await all;
  }
  await vm.pause();
  await vm.setCpus(2);
  await t.rejects(vm.setCpus(1), { code: 'E_STATE' });
  await vm.resume();
  await vm.setCpus(3);
  await t.rejects(vm.setCpus(1, { timeout: 1 }), { name: 'PeerError', code: 'E_EJECT' });
  t.equal(await guest.read(down), 0, 'it is asked no longer');
  await guest.reset();
  t.equal(await guest.read(eject), 6, 'as many as before');
  for (const count of [0, 5, 1.5]) {
    await t.rejects(vm.setCpus(count), {
      code: 'E_CPUS',
      message: /^this machine can have 1 to 4/,
    });
  }
});

t.test('a machine without maxCpus keeps its CPUs', { skip }, async (t) => {
  await using guest = await Driven.start({ cpus: 2 });
  await t.rejects(guest.vm.setCpus(1), { code: 'E_CPUS', message: /keeps the vCPUs .*--max-cpus/ });
  await guest.write(CPU_HOTPLUG_PORT + 8, 0xffff_ffff);
  t.equal(await guest.read(CPU_HOTPLUG_PORT + 8), 0);
  await t.rejects(Driven.start({ cpus: 2, maxCpus: 1 }), { code: 'E_CPUS', message: /fewer/ });
});
