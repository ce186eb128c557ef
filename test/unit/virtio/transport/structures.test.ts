/** ISR status, device configuration, notifications and the configuration window (virtio 1.3 §4.1.4). */
import t from 'tap';
import * as pci from '../../../../src/abi/pci.ts';
import * as abi from '../../../../src/abi/virtio-pci.ts';
import { drainEventfd, isReadable, signalEventfd } from '../../../../src/host/fd.ts';
import { type RigOptions, VirtioPciRig } from '../../../support/rigs/virtio-pci.ts';

const ENABLE = pci.PCI_MSIX_FLAGS_ENABLE;
const QUEUE = abi.VIRTIO_PCI_ISR_QUEUE;
const CONFIG = abi.VIRTIO_PCI_ISR_CONFIG;
const LINE = 17;

function running(queues = 1, options: RigOptions = {}): VirtioPciRig {
  const rig = new VirtioPciRig(options);
  rig.initialize(queues);
  rig.takeEvents();
  rig.port.take();
  return rig;
}

t.test('virtio 1.3 §4.1.2.1 a modern device shows it by its IDs', async (t) => {
  using rig = new VirtioPciRig();
  t.equal(rig.config(0, 2), 0x1af4);
  t.equal(rig.config(2, 2), 0x1040 + 42);
  t.ok(rig.config(8, 1) >= 1, 'revision');
  t.ok(rig.config(0x2e, 2) >= 0x40, 'subsystem');
});

t.test('virtio 1.3 §4.1.4 every structure is found, inside of its BAR, aligned', async (t) => {
  using rig = new VirtioPciRig();
  const cap = abi.virtio_pci_cap;
  for (const [type, alignment, least] of [
    [abi.VIRTIO_PCI_CAP_COMMON_CFG, 4, abi.virtio_pci_common_cfg.size],
    [abi.VIRTIO_PCI_CAP_NOTIFY_CFG, 2, 2 * 4 + 4],
    [abi.VIRTIO_PCI_CAP_ISR_CFG, 1, 1],
    [abi.VIRTIO_PCI_CAP_DEVICE_CFG, 4, 10],
  ] as const) {
    const at = rig.capability(type);
    const offset = rig.config(at + cap.offset.offset, 4);
    const length = rig.config(at + cap.length.offset, 4);
    const bar = rig.config(at + cap.bar.offset, 1);
    rig.setBar(bar, 0xffff_ffff);
    const size = 2 ** 32 - rig.bar(bar);
    t.equal(offset % alignment, 0, `alignment of ${type}`);
    t.ok(length >= least, `length of ${type}`);
    t.ok(offset + length <= size, `BAR of ${type}`);
  }
});

t.test('virtio 1.3 §4.1.4.6 a device without configuration has no such capability', async (t) => {
  using rig = new VirtioPciRig({ config: new Uint8Array(0), configWriteMask: new Uint8Array(0) });
  t.throws(() => rig.capability(abi.VIRTIO_PCI_CAP_DEVICE_CFG));
  rig.enableDecoding();
  t.equal(rig.readMemory(rig.bar(0) + 0x2000, 4), 0);
});

t.test('virtio 1.3 §4.1.4.5.1 a queue interrupt sets bit 0, and the line', async (t) => {
  using rig = running();
  rig.device.assertQueueInterrupt();
  t.same(rig.port.take(), [`line ${LINE} up`]);
  t.equal(rig.readMemory(rig.isrAddress, 1), QUEUE);
});

t.test('virtio 1.3 §4.1.4.5 reading the ISR status clears it and lowers the line', async (t) => {
  using rig = running();
  rig.device.assertQueueInterrupt();
  rig.device.notifyConfigChange();
  t.equal(rig.readMemory(rig.isrAddress, 1), QUEUE | CONFIG);
  t.equal(rig.readMemory(rig.isrAddress, 1), 0);
  t.same(rig.port.take(), [`line ${LINE} up`, `line ${LINE} down`]);
});

t.test('virtio 1.3 §4.1.4.5 writing the ISR status does nothing', async (t) => {
  using rig = running();
  rig.device.assertQueueInterrupt();
  rig.writeMemory(rig.isrAddress, 1, 0);
  t.equal(rig.readMemory(rig.isrAddress, 1), QUEUE);
});

t.test('virtio 1.3 §4.1.4.5.1 the configuration bit is set with MSI-X as well', async (t) => {
  using rig = running();
  rig.setMsixControl(ENABLE);
  rig.port.take();
  rig.device.notifyConfigChange();
  t.equal(rig.readMemory(rig.isrAddress, 1), CONFIG);
  t.same(rig.port.take(), [], 'but not the line');
});

t.test('virtio 1.3 §4.1.5.3 a configuration change goes to its vector', async (t) => {
  using rig = running();
  const eventfd = rig.device.plan.vectors[3]?.eventfd ?? -1;
  rig.setMsixControl(ENABLE);
  rig.device.notifyConfigChange();
  t.equal(isReadable(eventfd), false, 'not while it is NO_VECTOR');
  rig.setCommon('config_msix_vector', 3);
  rig.device.notifyConfigChange();
  t.equal(drainEventfd(eventfd), true);
});

t.test(
  'virtio 1.3 §2.4.1 a reset takes back the interrupts that the driver has not seen',
  async (t) => {
    using rig = running();
    rig.device.assertQueueInterrupt();
    rig.setCommon('device_status', 0);
    rig.device.registers.completeReset();
    t.equal(rig.port.lines.get(LINE), false);
    t.equal(rig.readMemory(rig.isrAddress, 1), 0);
  },
);

t.test('virtio 1.3 §2.4.1 no pending notification arrives after a reset', async (t) => {
  using rig = running();
  const { vectors, intxEventfd } = rig.device.plan;
  rig.setMsixControl(ENABLE);
  signalEventfd(intxEventfd);
  signalEventfd(vectors[2]?.eventfd ?? -1);
  rig.setCommon('device_status', 0);
  rig.device.registers.completeReset();
  t.equal(isReadable(intxEventfd), false);
  t.equal(isReadable(vectors[2]?.eventfd ?? -1), false);
});

t.test('virtio 1.3 §2.5 the device configuration reads in every width', async (t) => {
  using rig = running();
  const at = rig.deviceConfigAddress;
  t.equal(rig.readMemory(at, 1), 1);
  t.equal(rig.readMemory(at + 1, 1), 2);
  t.equal(rig.readMemory(at + 2, 2), 0x0403);
  t.equal(rig.readMemory(at + 4, 4), 0x0807_0605);
  t.equal(rig.readMemory(at + 8, 4), 0, 'half outside: nothing');
  t.equal(rig.readMemory(at + 10, 1), 0);
});

t.test('virtio 1.3 §2.5 only bytes that a driver may write change', async (t) => {
  using rig = running();
  const at = rig.deviceConfigAddress;
  rig.writeMemory(at + 4, 4, 0xdead_beef);
  t.equal(rig.readMemory(at + 4, 4), 0x0807_beef);
  t.same(rig.takeEvents(), ['1: config 4: ef be']);
});

t.test('virtio 1.3 §2.5 a write to read-only configuration is ignored', async (t) => {
  using rig = running();
  rig.writeMemory(rig.deviceConfigAddress, 4, 0);
  rig.writeMemory(rig.deviceConfigAddress + 8, 4, 0);
  rig.writeMemory(rig.deviceConfigAddress + 100, 1, 0);
  t.equal(rig.readMemory(rig.deviceConfigAddress, 4), 0x0403_0201);
  t.same(rig.takeEvents(), []);
});

t.test('virtio 1.3 §4.1.4.3.1 config_generation changes once a change has been read', async (t) => {
  using rig = running();
  const { registers } = rig.device;
  const before = rig.common('config_generation');
  rig.readMemory(rig.deviceConfigAddress, 1);
  t.equal(rig.common('config_generation'), before, 'nothing has changed');
  // 256 changes must not look like none.
  for (let i = 0; i < 256; i++) registers.config.changed();
  rig.readMemory(rig.deviceConfigAddress, 1);
  t.not(rig.common('config_generation'), before);
});

t.test('virtio 1.3 §2.5.1 a change between two reads shows in the generation', async (t) => {
  using rig = running();
  const at = rig.deviceConfigAddress;
  const before = rig.common('config_generation');
  rig.readMemory(at, 1);
  rig.device.registers.config.view.setUint16(0, 0x9999, true);
  rig.device.registers.config.changed();
  rig.readMemory(at + 1, 1);
  t.not(rig.common('config_generation'), before);
});

t.test('virtio 1.3 §4.1.4 where doorbells are ports, others in memory come second', async (t) => {
  using rig = new VirtioPciRig({ notify: 'io' });
  rig.enableDecoding();
  const cap = abi.virtio_pci_cap;
  const found = rig.capabilities().filter(({ id, offset }) => {
    const type = rig.config(offset + cap.cfg_type.offset, 1);
    return id === pci.PCI_CAP_ID_VNDR && type === abi.VIRTIO_PCI_CAP_NOTIFY_CFG;
  });
  t.equal(found.length, 2);
  const [first, second] = found.map(({ offset }) => ({
    bar: rig.config(offset + cap.bar.offset, 1),
    offset: rig.config(offset + cap.offset.offset, 4),
    length: rig.config(offset + cap.length.offset, 4),
    multiplier: rig.config(offset + cap.size, 4),
  }));
  const isPorts = (bar = 0): boolean => (rig.config(0x10 + 4 * bar, 4) & 1) === 1;
  t.same([isPorts(first?.bar), isPorts(second?.bar)], [true, false], 'the preferred one first');
  const base = rig.bar(second?.bar ?? 0) + (second?.offset ?? 0);
  t.equal(base % 0x1000, 0, 'a page that may be mapped alone');
  const queues = rig.device.plan.kicks.length;
  t.ok((second?.length ?? 0) >= queues * (second?.multiplier ?? 0));
  rig.device.plan.kicks.forEach((kick, queue) => {
    const address = base + queue * (second?.multiplier ?? 0);
    t.equal(rig.port.doorbells.get(`memory:${address.toString(16)}`), kick);
    rig.writeMemory(address, 2, queue);
    t.ok(drainEventfd(kick), 'and one that exits arrives');
  });
  t.equal(rig.readMemory(base, 4), 0);
});

for (const notify of ['memory', 'io'] as const) {
  t.test(
    `virtio 1.3 §4.1.4.4 doorbells in ${notify} are where the capability puts them`,
    async (t) => {
      using rig = new VirtioPciRig({ notify });
      rig.enableDecoding();
      const at = rig.capability(abi.VIRTIO_PCI_CAP_NOTIFY_CFG);
      const multiplier = rig.config(at + abi.virtio_pci_cap.size, 4);
      t.equal(rig.bar(4), rig.notifyAddress);
      rig.device.plan.kicks.forEach((kick, queue) => {
        const address = rig.notifyAddress + queue * multiplier;
        t.equal(rig.port.doorbells.get(`${notify}:${address.toString(16)}`), kick);
      });
    },
  );

  t.test(
    `virtio 1.3 §4.1.5.2 a notification without a doorbell in ${notify} arrives`,
    async (t) => {
      using rig = new VirtioPciRig({ notify });
      rig.enableDecoding();
      const write = (offset: number, size: number): void => {
        const address = rig.notifyAddress + offset;
        if (notify === 'io') rig.writePort(address, size, 2);
        else rig.writeMemory(address, size, 2);
      };
      write(8, 2);
      t.same(
        rig.device.plan.kicks.map((kick) => drainEventfd(kick)),
        [false, false, true],
      );
      write(4, 4);
      t.same(
        rig.device.plan.kicks.map((kick) => drainEventfd(kick)),
        [false, true, false],
      );
      write(12, 4);
      t.same(
        rig.device.plan.kicks.map((kick) => drainEventfd(kick)),
        [false, false, false],
        'past the last queue',
      );
    },
  );
}

/** The configuration window, §4.1.4.9. */
class Window {
  readonly #rig: VirtioPciRig;
  readonly #at: number;
  constructor(rig: VirtioPciRig) {
    this.#rig = rig;
    this.#at = rig.capability(abi.VIRTIO_PCI_CAP_PCI_CFG);
  }
  aim(bar: number, offset: number, length: number): void {
    this.#rig.setConfig(this.#at + abi.virtio_pci_cap.bar.offset, 1, bar);
    this.#rig.setConfig(this.#at + abi.virtio_pci_cap.offset.offset, 4, offset);
    this.#rig.setConfig(this.#at + abi.virtio_pci_cap.length.offset, 4, length);
  }
  read(size = 4): number {
    return this.#rig.config(this.#at + abi.virtio_pci_cap.size, size);
  }
  write(value: number, size = 4): void {
    this.#rig.setConfig(this.#at + abi.virtio_pci_cap.size, size, value);
  }
}

t.test('virtio 1.3 §4.1.4.9 the window reads and writes with decoding off', async (t) => {
  using rig = new VirtioPciRig();
  const window = new Window(rig);
  window.aim(0, 22, 2);
  window.write(2);
  t.equal(window.read(), 2);
  t.equal(rig.device.registers.queueSelect, 2);
  window.aim(0, 20, 1);
  window.write(0xffff_ff01);
  t.equal(window.read(1), 1, 'the status, of which one byte was taken');
  window.aim(0, 0x2004, 4);
  t.equal(window.read(), 0x0807_0605);
});

t.test('virtio 1.3 §4.1.4.9 a notification through the window arrives', async (t) => {
  using rig = new VirtioPciRig();
  const window = new Window(rig);
  window.aim(4, 4, 2);
  window.write(1);
  t.same(
    rig.device.plan.kicks.map((kick) => drainEventfd(kick)),
    [false, true, false],
  );
});

for (const [name, bar, offset, length] of [
  ['a length of 0', 0, 0, 0],
  ['a length of 3', 0, 0, 3],
  ['a length of 8', 0, 0, 8],
  ['a huge length', 0, 0, 0xffff_ffff],
  ['an odd offset', 0, 21, 2],
  ['an offset past the BAR', 0, 0x4000, 1],
  ['an offset that overflows', 0, 0xffff_fffc, 4],
  ['a BAR that is not there', 1, 0, 4],
  ['a BAR number beyond 5', 255, 0, 4],
] as const) {
  t.test(`virtio 1.3 §4.1.4.9.2 the window is shut for ${name}`, async (t) => {
    using rig = new VirtioPciRig();
    const window = new Window(rig);
    window.aim(bar, offset, length);
    window.write(0x1234_5678);
    t.equal(window.read(), 0x1234_5678, 'plain bytes');
    t.equal(rig.device.registers.deviceFeatureSelect, 0);
  });
}

t.test('virtio 1.3 §4.1.4 the capabilities are read-only but for the window', async (t) => {
  using rig = new VirtioPciRig();
  for (const type of [1, 2, 3, 4]) {
    const at = rig.capability(type);
    const before = [0, 4, 8, 12].map((offset) => rig.config(at + offset, 4));
    for (const offset of [0, 4, 8, 12]) rig.setConfig(at + offset, 4, 0xffff_ffff);
    t.same(
      [0, 4, 8, 12].map((offset) => rig.config(at + offset, 4)),
      before,
    );
  }
});
