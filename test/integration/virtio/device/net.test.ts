/** The network device on real taps, where the host lets us make them. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import t from 'tap';
import {
  VIRTIO_NET_CTRL_MQ,
  VIRTIO_NET_F_CSUM,
  VIRTIO_NET_F_CTRL_VQ,
  VIRTIO_NET_F_GUEST_CSUM,
  VIRTIO_NET_F_GUEST_TSO4,
  VIRTIO_NET_F_HOST_TSO4,
  VIRTIO_NET_F_MQ,
  VIRTIO_NET_F_MRG_RXBUF,
  VIRTIO_NET_OK,
} from '../../../../src/abi/virtio-net.ts';
import { featureSet, hasFeature, VIRTIO_F_VERSION_1 } from '../../../../src/abi/virtio-ring.ts';
import { TapQueue } from '../../../../src/backend/tap-queue.ts';
import { DeviceRig } from '../../../../src/testing/index.ts';
import { createNetDevice, type NetDevice } from '../../../../src/virtio/device/net/net.ts';
import { createHandler } from '../../../../src/virtio/device/net/net-handler.ts';
import { netType } from '../../../../src/virtio/device/net/net-type.ts';
import type { DeviceHost, QueueHandler } from '../../../../src/virtio/device.ts';
import { checkBackendOptions } from '../../../support/rigs/backend-options.ts';
import { tapReason } from '../../../support/rigs/host.ts';

const skip = tapReason();
const GUEST_IP = [10, 199, 8, 2];
const HOST_IP = [10, 199, 8, 1];

function dataHalf(device: NetDevice): QueueHandler {
  if (device.thread.kind !== 'worker') throw new Error('it is served in a worker');
  return createHandler(device.thread.options);
}

/** A device's configuration space, as a carrier keeps it. */
class Carrier implements DeviceHost {
  readonly config: Uint8Array;
  changes = 0;

  constructor(device: NetDevice) {
    this.config = device.config.slice();
    device.attach?.(this);
  }

  updateConfig(change: (config: DataView) => void): void {
    this.changes++;
    change(new DataView(this.config.buffer));
  }

  readConfig(): Uint8Array {
    return this.config.slice();
  }

  post(): void {}
}

/** ARP for IPv4 over Ethernet, behind a virtio-net header. */
function arp(
  operation: number,
  sender: number[],
  senderIp: number[],
  targetIp: number[],
): Uint8Array {
  const to = operation === 1 ? Array<number>(6).fill(0xff) : sender;
  const ethernet = [...to, ...sender, 0x08, 0x06];
  const body = [0, 1, 8, 0, 6, 4, 0, operation, ...sender, ...senderIp, 0, 0, 0, 0, 0, 0];
  return Uint8Array.from([...Array<number>(12).fill(0), ...ethernet, ...body, ...targetIp]);
}

function macOf(device: NetDevice): number[] {
  return device.mac.split(':').map((part) => Number.parseInt(part, 16));
}

t.test('options that cannot be are refused in one line', async (t) => {
  const refused: [object, string][] = [
    [{ mac: '52:54:00:12:34' }, 'E_NET_MAC'],
    [{ mac: '01:00:5e:00:00:01' }, 'E_NET_MAC'],
    [{ mac: '00:00:00:00:00:00' }, 'E_NET_MAC'],
  ];
  for (const [options, code] of refused) {
    t.throws(() => createNetDevice({ name: 'net0', ...options }), { name: 'UsageError', code });
  }
});

for (const [options, code] of [
  [{ queues: 0 }, 'E_NET_QUEUES'],
  [{ queues: 9 }, 'E_NET_QUEUES'],
  [{ mtu: 67 }, 'E_NET_MTU'],
  [{ mtu: 65522 }, 'E_NET_MTU'],
] as const) {
  t.test(`${JSON.stringify(options)} is refused in one line`, async (t) => {
    t.throws(() => checkBackendOptions(netType, 'tap', options), { name: 'UsageError', code });
  });
}

t.test('§5.1.2 to §5.1.4 queues, features and configuration', { skip }, async (t) => {
  const device = createNetDevice({ name: 'net0', mac: '52:54:00:12:34:56', queues: 2, mtu: 1400 });
  t.teardown(() => device.close());
  t.same(
    device.queues.map(({ name }) => name),
    ['receiveq1', 'transmitq1', 'receiveq2', 'transmitq2', 'controlq'],
  );
  t.same(
    [...device.config],
    [0x52, 0x54, 0, 0x12, 0x34, 0x56, 1, 0, 2, 0, 0x78, 5, 0x10, 0x27, 0, 0, 1],
  );
  for (const bit of [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_GUEST_TSO4]) {
    t.equal(hasFeature(device.features, bit), true, `feature ${bit}`);
  }
  const carrier = new Carrier(device);
  const carrierFile = `/sys/class/net/${device.tapName}/carrier`;
  device.setLink(false);
  t.same([carrier.config[6], readFileSync(carrierFile, 'utf8')], [0, '0\n']);
  device.setLink(true);
  t.same([carrier.config[6], readFileSync(carrierFile, 'utf8')], [1, '1\n']);
  device.message?.({ mac: Uint8Array.of(2, 0, 0, 0, 0, 9) });
  t.equal(carrier.config[5], 9, 'the driver’s address');
  device.reset?.();
  t.equal(carrier.config[5], 0x56, 'the device’s own after a reset');
});

t.test('without offloads and mergeable buffers', { skip }, async (t) => {
  const device = createNetDevice({ name: 'net0', offloads: false, mergeableBuffers: false });
  t.teardown(() => device.close());
  for (const bit of [VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_MRG_RXBUF]) {
    t.equal(hasFeature(device.features, bit), false, `feature ${bit}`);
  }
  t.match(device.mac, /^[0-9a-f][26ae](:[0-9a-f]{2}){5}$/, 'locally administered');
});

t.test('the host answers ARP, and its packets arrive whole', { skip }, async (t) => {
  const device = createNetDevice({ name: 'net0', hostAddress: '10.199.8.1/24', mtu: 9000 });
  t.teardown(() => device.close());
  using rig = new DeviceRig();
  const features = featureSet(VIRTIO_F_VERSION_1, VIRTIO_NET_F_MRG_RXBUF, VIRTIO_NET_F_GUEST_CSUM);
  rig.start(dataHalf(device), features, [256, 256]);
  const refill = () => {
    while (rig.queue(0).free > 0) rig.queue(0).add({ writable: [1526] });
    rig.kick(0);
  };
  refill();
  const send = (bytes: Uint8Array) => {
    rig.queue(1).add({ readable: [bytes] });
    rig.kick(1);
  };
  /** The next packet that `wanted` accepts; the host's own chatter (IPv6) is skipped. */
  const receive = (wanted: (packet: Uint8Array) => boolean): Uint8Array => {
    let left = 0;
    let parts: number[] = [];
    let found: Uint8Array | null = null;
    rig.pumpUntil(() => {
      for (const { data } of rig.queue(0).completed()) {
        if (left === 0) {
          parts = [];
          left = (data[10] ?? 0) | ((data[11] ?? 0) << 8);
        }
        parts.push(...data);
        if (--left === 0 && wanted(Uint8Array.from(parts))) found ??= Uint8Array.from(parts);
      }
      refill();
      return found !== null;
    }, 'a packet of the host');
    return found ?? new Uint8Array(0);
  };
  const isArp = (operation: number) => (bytes: Uint8Array) =>
    bytes[24] === 8 && bytes[25] === 6 && bytes[33] === operation;

  send(arp(1, macOf(device), GUEST_IP, HOST_IP));
  const reply = receive(isArp(2));
  t.same([...reply.subarray(12, 18)], macOf(device), 'to the device’s address');
  t.same([...reply.subarray(40, 44)], HOST_IP, 'from the host’s address');

  const socket = createSocket('udp4');
  t.teardown(() => socket.close());
  const payload = Buffer.from(Array.from({ length: 8000 }, (_, i) => (i * 31) & 0xff));
  socket.send(payload, 4242, GUEST_IP.join('.'));
  await once(socket, 'listening');
  await new Promise((resolve) => setImmediate(resolve));
  const got = receive((bytes) => bytes[24] === 8 && bytes[25] === 0 && bytes[35] === 17);
  t.equal(
    Buffer.compare(got.subarray(12 + 14 + 20 + 8), payload),
    0,
    '8000 bytes over six buffers',
  );
});

t.test('§5.1.6.5.5 queue pairs are attached and detached', { skip }, async (t) => {
  const device = createNetDevice({ name: 'net0', queues: 3 });
  t.teardown(() => device.close());
  using rig = new DeviceRig();
  const features = featureSet(VIRTIO_F_VERSION_1, VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ);
  rig.start(dataHalf(device), features, [64, 64, 64, 64, 64, 64, 64]);
  const set = (pairs: number) => {
    const data = Uint8Array.of(pairs & 0xff, pairs >>> 8);
    rig.queue(6).add({ readable: [Uint8Array.of(VIRTIO_NET_CTRL_MQ, 0), data], writable: [1] });
    rig.kick(6);
    return rig.queue(6).completed()[0]?.data[0];
  };
  t.same([set(3), set(1), set(2)], [VIRTIO_NET_OK, VIRTIO_NET_OK, VIRTIO_NET_OK]);
  t.same([set(0), set(4), set(0x8000)], [1, 1, 1]);
  for (const index of [0, 2, 4]) {
    rig.queue(index).add({ writable: [1526] });
    rig.kick(index);
  }
  rig.pump();
  t.same(rig.logs, []);
  t.equal(rig.brokenReason, undefined);
});

t.test('without its control queue all pairs that are enabled are used', { skip }, async (t) => {
  const device = createNetDevice({ name: 'net0', queues: 2 });
  t.teardown(() => device.close());
  const features = featureSet(VIRTIO_F_VERSION_1, VIRTIO_NET_F_MQ, VIRTIO_NET_F_CTRL_VQ);
  using rig = new DeviceRig();
  rig.start(dataHalf(device), features, [64, 64, 64, 64]);
  const taps = device.vhost?.kind === 'net' ? device.vhost.taps : [];
  const second = new TapQueue(taps[1] ?? -1);
  // The kernel refuses to attach what is attached.
  t.ok(second.setAttached(true) < 0);
  rig.handOver(dataHalf(device), features, [0, 1]);
  t.equal(second.setAttached(true), 0, 'it was detached');
  t.equal(second.setAttached(false), 0);
  rig.handOver(dataHalf(device), features);
  t.ok(second.setAttached(true) < 0);
  t.equal(rig.brokenReason, undefined);
});
