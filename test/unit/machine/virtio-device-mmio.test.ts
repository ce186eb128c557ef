/** The owner of a device that is carried over MMIO: queues that stop, and the interrupt line. */
import t from 'tap';
import * as mmio from '../../../src/abi/virtio-mmio.ts';
import type { DatapathEvents } from '../../../src/datapath/datapath.ts';
import { signalEventfd } from '../../../src/host/fd.ts';
import { ResourceAllocator } from '../../../src/machine/devices/resource-allocator.ts';
import { VirtioMachineDevice } from '../../../src/machine/devices/virtio-device.ts';
import { Ram } from '../../../src/memory/ram.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import type { DeviceHost, VirtioDevice } from '../../../src/virtio/device.ts';
import { boardOf, FakeDatapath } from '../../support/rigs/machine-device.ts';
import { VirtioMmioRig } from '../../support/rigs/virtio-mmio.ts';

class MmioOwnerRig implements AsyncDisposable {
  readonly rig = new VirtioMmioRig();
  readonly ram = new Ram(MiB);
  readonly owner: VirtioMachineDevice;
  readonly #resources = new ResourceAllocator('io');
  datapath: FakeDatapath | undefined;
  host: DeviceHost | undefined;

  constructor() {
    const device: VirtioDevice = {
      name: 'test0',
      deviceId: 42,
      pciClass: 0,
      features: 0n,
      queues: [],
      config: Uint8Array.from(this.rig.shape.config),
      thread: { kind: 'main' },
      attach: (host) => {
        this.host = host;
      },
      close: () => {},
    };
    const open = (events: DatapathEvents): FakeDatapath => {
      this.datapath = new FakeDatapath(events);
      return this.datapath;
    };
    const options = { transport: 'mmio' } as const;
    this.owner = new VirtioMachineDevice(device, options, () => {}, new Map([['userspace', open]]));
    this.owner.plan(this.#resources);
    this.owner.plug(boardOf(this.rig), this.ram.memory.share);
  }

  /** Hands the events to the owner and waits until it has answered them all. */
  async settle(): Promise<string[]> {
    for (; this.rig.messages > 0; this.rig.messages--) {
      this.owner.message({ kind: 'changed', device: 0 });
    }
    await this.owner.moveTo(this.owner.datapath);
    return this.datapath?.take() ?? [];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.owner.unplug();
    await this.owner.close();
    this.rig[Symbol.dispose]();
    this.ram[Symbol.dispose]();
    this.#resources.close();
  }
}

t.test('DRIVER_OK serves the ready queues, and interrupts by the line', async (t) => {
  await using o = new MmioOwnerRig();
  o.rig.initialize(2);
  t.same(await o.settle(), ['start 0 1']);
  const { kicks, lineEventfd } = o.rig.device;
  t.match(o.datapath?.last?.queues[1], { index: 1, kickFd: kicks[1], callFd: lineEventfd });
});

t.test('virtio 1.3 §4.2.2.2 QueueReady 0 stops that queue; it restarts', async (t) => {
  await using o = new MmioOwnerRig();
  o.rig.initialize(3);
  await o.settle();
  o.rig.write(mmio.VIRTIO_MMIO_QUEUE_SEL, 1);
  o.rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 0);
  t.same(await o.settle(), ['stop', 'start 0@10 2@12'], 'the others continue');
  t.equal(o.rig.read(mmio.VIRTIO_MMIO_QUEUE_READY), 0);
  o.rig.write(mmio.VIRTIO_MMIO_QUEUE_READY, 1);
  t.same(await o.settle(), ['stop', 'start 0@10 1 2@12']);
});

t.test('virtio 1.3 §2.4.1 a reset is over when the datapath has stopped', async (t) => {
  await using o = new MmioOwnerRig();
  o.rig.initialize();
  await o.settle();
  o.rig.write(mmio.VIRTIO_MMIO_STATUS, 0);
  t.same(o.rig.port.take(), ['wait'], 'the vCPU waits');
  t.same(await o.settle(), ['stop']);
  t.equal(o.rig.status, 0);
});

t.test('virtio 1.3 §4.2.3.4 used buffers raise the line', async (t) => {
  await using o = new MmioOwnerRig();
  o.rig.initialize();
  await o.settle();
  signalEventfd(o.rig.device.lineEventfd);
  while (o.rig.port.lines.size === 0) await new Promise((done) => setImmediate(done));
  t.same([...o.rig.port.lines], [[20, true]]);
  t.equal(o.rig.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS), 1);
});

t.test('virtio 1.3 §2.3 a configuration change, and a broken device, raise the line', async (t) => {
  await using o = new MmioOwnerRig();
  o.rig.initialize();
  await o.settle();
  o.host?.updateConfig((config) => config.setUint8(0, 77));
  t.equal(o.rig.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS), 2);
  t.equal(o.rig.read(mmio.VIRTIO_MMIO_CONFIG, 1), 77);
  o.rig.write(mmio.VIRTIO_MMIO_INTERRUPT_ACK, 2);
  o.datapath?.events.broken('a rule');
  t.equal(o.rig.read(mmio.VIRTIO_MMIO_INTERRUPT_STATUS), 2);
  t.equal(o.rig.status, 0x4f);
});
