/** Each rule of the registers that is checked, over both transports' common part. */
import t from 'tap';
import { ACKNOWLEDGE, DRIVER, DRIVER_OK, FEATURES_OK } from '../../../../src/abi/virtio-pci.ts';
import {
  featureSet,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
} from '../../../../src/abi/virtio-ring.ts';
import { Eventfd } from '../../../../src/host/fd.ts';
import { SharedState } from '../../../../src/state/shared-state.ts';
import type { Breach } from '../../../../src/virtio/observe/observation.ts';
import { observeRegisters } from '../../../../src/virtio/observe/observe.ts';
import * as record from '../../../../src/virtio/observe/trace/trace-record.ts';
import {
  allocateTraceRing,
  TraceReader,
  TraceWriter,
} from '../../../../src/virtio/observe/trace/trace-ring.ts';
import { DeviceRegisters, QUEUE_DESC } from '../../../../src/virtio/transport/device-registers.ts';
import type { DriverEvents } from '../../../../src/virtio/transport/transport.ts';

const BIT_A = 3;
const BIT_B = 5;

/** A device's registers, checked and traced. */
class RegisterRig implements Disposable {
  readonly breaches: Breach[] = [];
  readonly kick = new Eventfd();
  readonly registers: DeviceRegisters;
  readonly ring = allocateTraceRing(256);

  constructor(features = featureSet(VIRTIO_F_VERSION_1, BIT_A, BIT_B)) {
    const shape = {
      name: 'test0',
      deviceId: 42,
      features,
      featureDependencies: [[BIT_A, BIT_B]] as const,
      queueSizes: [8],
      config: new Uint8Array(8),
      configWriteMask: Uint8Array.of(0xff, 0, 0, 0, 0, 0, 0, 0),
    };
    const observer = observeRegisters({
      device: 1,
      tracer: new TraceWriter(this.ring),
      check: {
        device: { ...shape, kicks: [this.kick.fd] },
        breach: (breach) => this.breaches.push(breach),
      },
    });
    const nothing = (): void => undefined;
    const events: DriverEvents = {
      changed: nothing,
      ...(observer === undefined ? {} : { observer }),
    };
    this.registers = new DeviceRegisters(
      new SharedState(SharedState.allocate(0x1000)),
      shape,
      events,
    );
    this.registers.powerOn();
  }

  accept(...bits: number[]): void {
    const set = featureSet(...bits);
    for (const select of [0, 1]) {
      this.registers.driverFeatureSelect = select;
      this.registers.writeDriverFeature(Number((set >> BigInt(32 * select)) & 0xffff_ffffn) | 0);
    }
  }

  /** What a driver does up to a step (§3.1.1). */
  upTo(step: 'driver' | 'features-ok' | 'driver-ok', ...bits: number[]): void {
    const { registers } = this;
    registers.writeStatus(0);
    registers.writeStatus(ACKNOWLEDGE);
    registers.writeStatus(ACKNOWLEDGE | DRIVER);
    if (step === 'driver') return;
    this.accept(VIRTIO_F_VERSION_1, ...bits);
    registers.writeStatus(registers.status | FEATURES_OK);
    if (step === 'features-ok') return;
    registers.writeQueueSize(0, 8);
    registers.setQueueWord(0, QUEUE_DESC, 0x1000);
    registers.enableQueue(0);
    registers.writeStatus(registers.status | DRIVER_OK);
  }

  [Symbol.dispose](): void {
    this.kick.close();
  }
}

t.test('a driver that keeps the rules', (t) => {
  using rig = new RegisterRig();
  const { registers } = rig;
  rig.upTo('driver-ok', BIT_A, BIT_B);
  rig.kick.signal();
  registers.config.read(0, 4);
  registers.writeConfig(0, 1, 7);
  registers.setNeedsReset();
  // The driver may not have seen yet that the device asks for a reset.
  registers.writeStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK | 128);
  registers.writeStatus(0);
  registers.completeReset();
  rig.upTo('driver-ok', BIT_B);
  t.same(rig.breaches, []);
  const whats = new Set<number>();
  new TraceReader(rig.ring).drain(Number.POSITIVE_INFINITY, ({ what }) => whats.add(what));
  for (const what of [
    record.STATUS,
    record.FEATURES_ACCEPTED,
    record.CONFIG_READ,
    record.CONFIG_WRITE,
    record.QUEUE_ENABLED,
    record.DEVICE_RESET,
    record.NEEDS_RESET,
  ]) {
    t.ok(whats.has(what), `record ${what} is in the trace`);
  }
  t.end();
});

t.test('queues that do not exist are reported without their number', (t) => {
  using rig = new RegisterRig();
  const { registers } = rig;
  rig.upTo('features-ok');
  for (let queue = 0; queue < 10_000; queue++) {
    registers.writeQueueSize(queue, 3);
    registers.resetQueue(queue);
    registers.stopQueue(queue);
    registers.enableQueue(queue);
    registers.setQueueWord(queue, QUEUE_DESC, 0);
  }
  const queues = new Set(rig.breaches.map(({ queue }) => queue));
  t.same([...queues], [0], 'of the one that there is');
  t.end();
});

const CASES: readonly (readonly [name: string, rule: string, act: (rig: RegisterRig) => void])[] = [
  [
    'a bit of the status that is cleared (§2.1.1)',
    'status-cleared',
    (rig) => {
      rig.upTo('features-ok');
      rig.registers.writeStatus(ACKNOWLEDGE | FEATURES_OK);
    },
  ],
  [
    'a bit of the status without a meaning (§2.1)',
    'status-unknown',
    (rig) => {
      rig.upTo('driver');
      rig.registers.writeStatus(ACKNOWLEDGE | DRIVER | 32);
    },
  ],
  [
    'DRIVER before ACKNOWLEDGE (§3.1.1)',
    'status-order',
    (rig) => rig.registers.writeStatus(DRIVER),
  ],
  [
    'FEATURES_OK before DRIVER (§3.1.1)',
    'status-order',
    (rig) => {
      rig.accept(VIRTIO_F_VERSION_1);
      rig.registers.writeStatus(ACKNOWLEDGE);
      rig.registers.writeStatus(ACKNOWLEDGE | FEATURES_OK);
    },
  ],
  [
    'DRIVER_OK before FEATURES_OK (§3.1.1)',
    'early-driver-ok',
    (rig) => {
      rig.upTo('driver');
      rig.registers.writeStatus(ACKNOWLEDGE | DRIVER | DRIVER_OK);
    },
  ],
  [
    'a feature that was not offered (§2.2.1)',
    'feature-not-offered',
    (rig) => rig.upTo('features-ok', 7),
  ],
  [
    'a feature without what it requires (§2.2.1)',
    'feature-needs',
    (rig) => rig.upTo('features-ok', BIT_A),
  ],
  [
    'a driver without VIRTIO_F_VERSION_1 (§6.1)',
    'no-version-1',
    (rig) => {
      rig.upTo('driver');
      rig.registers.writeStatus(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    },
  ],
  [
    'features after FEATURES_OK (§3.1.1 step 5)',
    'late-features',
    (rig) => {
      rig.upTo('features-ok');
      rig.accept(BIT_B);
    },
  ],
  [
    'a queue before FEATURES_OK (§3.1.1)',
    'early-queue',
    (rig) => {
      rig.upTo('driver');
      rig.registers.setQueueWord(0, QUEUE_DESC, 0x1000);
      rig.registers.enableQueue(0);
    },
  ],
  [
    'a queue that is enabled and changes (§4.1.4.3.2)',
    'enabled-queue',
    (rig) => {
      rig.upTo('driver-ok');
      rig.registers.setQueueWord(0, QUEUE_DESC, 0x2000);
    },
  ],
  [
    'a queue size that is no power of two (§4.1.4.3.2)',
    'queue-size',
    (rig) => {
      rig.upTo('features-ok');
      rig.registers.writeQueueSize(0, 7);
    },
  ],
  [
    'a queue reset that was not negotiated (§2.6.1)',
    'no-ring-reset',
    (rig) => {
      rig.upTo('driver-ok');
      rig.registers.resetQueue(0);
    },
  ],
  [
    'a register that takes no writes (§4.1.4.3.2)',
    'read-only',
    (rig) => rig.registers.readOnlyWritten('num_queues'),
  ],
  [
    'configuration that is not the driver’s to write (§2.5)',
    'config-read-only',
    (rig) => {
      rig.upTo('driver-ok');
      rig.registers.writeConfig(4, 4, 1);
    },
  ],
  [
    'configuration that is written early (§3.1.1 step 4)',
    'early-config',
    (rig) => {
      rig.upTo('driver');
      rig.registers.writeConfig(0, 1, 1);
    },
  ],
  [
    'a notification before DRIVER_OK (§3.1.1)',
    'early-kick',
    (rig) => {
      rig.upTo('features-ok');
      rig.kick.signal();
      rig.registers.writeStatus(rig.registers.status | DRIVER_OK);
    },
  ],
];

for (const [name, rule, act] of CASES) {
  t.test(name, (t) => {
    using rig = new RegisterRig();
    for (let i = 0; i < 2; i++) {
      act(rig);
      rig.registers.completeReset();
    }
    t.same(
      rig.breaches.map((breach) => `${breach.side} ${breach.rule}`),
      [`driver ${rule}`],
      'reported once',
    );
    t.match(rig.breaches[0]?.text, /\(virtio 1\.3 §/);
    t.end();
  });
}

t.test('what VIRTIO_F_RING_RESET allows', (t) => {
  using rig = new RegisterRig(featureSet(VIRTIO_F_VERSION_1, VIRTIO_F_RING_RESET));
  rig.upTo('driver-ok', VIRTIO_F_RING_RESET);
  rig.registers.resetQueue(0);
  t.same(rig.breaches, []);
  t.end();
});

t.test('no observer unless requested', (t) => {
  t.equal(observeRegisters({ device: 0, tracer: undefined, check: undefined }), undefined);
  t.end();
});
