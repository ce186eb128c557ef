/** The network device's receive and transmit queues (virtio 1.3 §5.1.6.2 to §5.1.6.4). */
import t from 'tap';
import {
  frame,
  HEADER_SIZE,
  joined,
  NetRig,
  OWN_MAC,
  packet,
  RINGS,
  RX,
  TX,
  withBuffers,
} from '../../../support/rigs/net.ts';

for (const [name, ring] of Object.entries(RINGS)) {
  t.test(
    `${name}: §5.1.6.2 each chain is sent as one packet, and used with length 0`,
    async (t) => {
      using net = new NetRig({ ring });
      const sent = [packet(60), packet(1514 + HEADER_SIZE, 3), packet(200, 5)];
      const queue = net.rig.queue(TX);
      queue.add({ readable: [sent[0] as Uint8Array] });
      const [header, body] = [sent[1]?.slice(0, 12), sent[1]?.slice(12)];
      queue.add({ readable: [header as Uint8Array, body as Uint8Array] });
      queue.add({ readable: [sent[2] as Uint8Array] });
      net.rig.kick(TX);
      t.same([net.wire.receive(), net.wire.receive(), net.wire.receive()], sent);
      t.same(
        queue.completed().map(({ written }) => written),
        [0, 0, 0],
      );
      t.ok(net.rig.interrupts(TX) > 0);
    },
  );

  t.test(`${name}: a full tap holds packets back, in order, and loses none`, async (t) => {
    using net = new NetRig({ ring });
    const queue = net.rig.queue(TX);
    const seeds = Array.from({ length: 600 }, (_, seed) => seed);
    const got: number[] = [];
    let added = 0;
    while (got.length < seeds.length) {
      while (added < seeds.length && queue.free > 0) {
        queue.add({ readable: [packet(1000, added++)] });
      }
      net.rig.kick(TX);
      // The peer takes packets only once the device is stuck.
      for (let taken = net.wire.receive(); taken !== null; taken = net.wire.receive()) {
        got.push(taken[HEADER_SIZE] as number);
      }
      net.rig.pump();
      queue.completed();
    }
    t.same(
      got,
      seeds.map((seed) => packet(HEADER_SIZE + 1, seed)[HEADER_SIZE]),
    );
  });

  t.test(`${name}: §5.1.6.4.1 without MRG_RXBUF a packet takes one buffer`, async (t) => {
    using net = new NetRig({ ring });
    net.addBuffers(1526, 1526, 100);
    net.wire.send(packet(60));
    net.wire.send(packet(1526, 1));
    net.wire.send(packet(101, 2));
    net.wire.send(packet(100, 3));
    const got = net.received();
    t.same(
      got.map(({ data }) => data),
      [packet(60), packet(1526, 1), packet(100, 3)].map((bytes) => withBuffers(bytes, 1)),
      'what does not fit is dropped, and its buffer is used again',
    );
    t.same(
      got.map(({ written }) => written),
      [60, 1526, 100],
    );
    t.ok(net.rig.interrupts(RX) > 0);
  });

  t.test(`${name}: §5.1.6.4.1 with MRG_RXBUF num_buffers is how many were used`, async (t) => {
    using net = new NetRig({ ring, mergeable: true });
    net.addBuffers(...Array<number>(20).fill(256));
    const sent = [packet(60), packet(256, 1), packet(257, 2), packet(2000, 3)];
    for (const bytes of sent) net.wire.send(bytes);
    const got = net.received();
    t.same(
      got.map(({ written }) => written),
      [60, 256, 256, 1, 256, 256, 256, 256, 256, 256, 256, 208],
    );
    const parts = [got.slice(0, 1), got.slice(1, 2), got.slice(2, 4), got.slice(4)];
    t.same(
      parts.map(joined),
      sent.map((bytes, i) => withBuffers(bytes, parts[i]?.length ?? 0)),
    );
  });

  t.test(`${name}: a packet longer than the buffers there are waits for more`, async (t) => {
    using net = new NetRig({ ring, mergeable: true });
    net.addBuffers(100, 100);
    const sent = packet(5000, 9);
    net.wire.send(sent);
    t.same(net.received(), []);
    net.addBuffers(1000);
    t.same(net.received(), [], 'still too few');
    net.addBuffers(2000, 2000, 2000);
    const got = net.received();
    t.same(joined(got), withBuffers(sent, 5));
    net.wire.send(packet(70));
    t.same(joined(net.received()), withBuffers(packet(70), 1), 'the sixth buffer is the next');
  });

  t.test(`${name}: staged buffers go back at a hand-over, and serve the next packet`, async (t) => {
    using net = new NetRig({ ring, mergeable: true });
    net.addBuffers(64, 64, 64, 64);
    net.wire.send(packet(100, 1));
    const first = net.received();
    net.rig.handOver(net.handler, net.features);
    net.wire.send(packet(100, 2));
    const second = net.received();
    t.same(
      [joined(first), joined(second)],
      [packet(100, 1), packet(100, 2)].map((bytes) => withBuffers(bytes, 2)),
    );
    t.same(
      [...first, ...second].map(({ token }) => token),
      [0, 1, 2, 3],
    );
  });
}

t.test('buffers of any shape: thousands of packets, none mixed up', async (t) => {
  using net = new NetRig({ mergeable: true, size: 256 });
  let mismatches = 0;
  for (let round = 0; round < 300; round++) {
    const queue = net.rig.queue(RX);
    while (queue.free > 8) {
      const length = 12 + ((round * 131 + queue.free * 17) % 3000);
      queue.add({ writable: [length, (round % 7) + 1, 300].slice(0, 1 + (round % 3)) });
    }
    net.rig.kick(RX);
    const bytes = packet(60 + ((round * 977) % 40_000), round);
    net.wire.send(bytes);
    const got = net.received();
    if (Buffer.compare(joined(got), withBuffers(bytes, got.length)) !== 0) mismatches++;
  }
  t.equal(mismatches, 0);
});

t.test('without buffers the tap is not read, and with them it is', async (t) => {
  using net = new NetRig();
  net.wire.send(packet(60));
  t.equal(net.rig.pump(), 0, 'packets are not waited for');
  net.addBuffers(1526);
  t.same(net.received().length, 1);
});

t.test('§5.1.6.3.1 a buffer shorter than the header breaks the device', async (t) => {
  using net = new NetRig();
  net.addBuffers(11);
  t.match(net.rig.brokenReason, /§5\.1\.6\.3\.1/);
});

t.test('a chain that is no packet is dropped, the next one is sent', async (t) => {
  using net = new NetRig();
  net.rig.queue(TX).add({ writable: [100] });
  net.rig.queue(TX).add({ readable: [packet(60)] });
  net.rig.kick(TX);
  t.same(net.wire.receive(), packet(60));
  t.equal(net.rig.queue(TX).completed().length, 2);
});

t.test('a tap that is gone ends receiving, with a line about it', async (t) => {
  using net = new NetRig();
  net.addBuffers(1526);
  net.wire.cut();
  net.rig.pump();
  net.rig.queue(TX).add({ readable: [packet(60)] });
  net.rig.kick(TX);
  t.equal(net.rig.queue(TX).completed().length, 1, 'packets are dropped');
  t.equal(net.rig.brokenReason, undefined);
  t.match(net.rig.logs, [/^receiving from the tap failed/]);
  t.equal(net.rig.pump(), 0, 'nor is it asked again');
});

for (const [name, errno] of [
  ['EINVAL', 22],
  ['EIO', 5],
  ['EINTR', 4],
  ['EFAULT', 14],
  ['ENOMEM', 12],
  ['ENOBUFS', 105],
] as const) {
  t.test(
    `a tap that fails once with ${name} is read again, and the errno is reported by name`,
    async (t) => {
      using net = new NetRig();
      net.addBuffers(1526, 1526);
      net.tap.faults.push(errno);
      net.wire.send(packet(60));
      net.wire.send(packet(70, 1));
      t.same(
        net.received().map(({ written }) => written),
        [60, 70],
      );
      t.match(net.rig.logs, [new RegExp(`^receiving from the tap failed \\(${name}\\)`)]);
    },
  );
}

t.test('a tap that keeps failing is left alone, and read again later', async (t) => {
  using net = new NetRig();
  net.addBuffers(1526);
  net.tap.faults.push(...new Array<number>(40).fill(22));
  net.wire.send(packet(60));
  t.equal(net.received().length, 0);
  const { reads } = net.tap;
  t.ok(reads < 40, `no busy loop: ${reads} reads`);
  net.rig.kick(RX);
  t.equal(net.rig.pump(), 0);
  t.equal(net.tap.reads, reads, 'nor has the driver it read');
  let done = net.received();
  while (done.length === 0) {
    net.rig.pump(10_000);
    done = net.received();
  }
  t.equal(done[0]?.written, 60);
  t.equal(net.rig.logs.length, 1, 'all of it is one line');
});

t.test('a tap that is left alone can be stopped, and is served again', async (t) => {
  using net = new NetRig();
  net.addBuffers(1526);
  net.tap.faults.push(...new Array<number>(8).fill(22));
  net.wire.send(packet(60));
  t.equal(net.received().length, 0);
  net.rig.handOver(net.handler, net.features);
  t.equal(net.received()[0]?.written, 60);
});

for (const [name, errno] of [
  ['EBADFD', 77],
  ['ENODEV', 19],
  ['EBADF', 9],
  ['ENXIO', 6],
] as const) {
  t.test(`a tap that fails with ${name} is gone`, async (t) => {
    using net = new NetRig();
    net.addBuffers(1526);
    net.tap.faults.push(errno);
    const { reads } = net.tap;
    net.wire.send(packet(60));
    t.equal(net.received().length, 0);
    t.equal(net.rig.pump(), 0);
    t.equal(net.tap.reads, reads + 1, 'it is not asked again');
    t.match(net.rig.logs, [new RegExp(`\\(${name}\\): the tap is gone`)]);
  });
}

t.test('what has not even a header is no packet, and no end either', async (t) => {
  using net = new NetRig();
  net.addBuffers(1526);
  net.wire.send(new Uint8Array(5));
  net.wire.send(packet(60));
  t.same(
    net.received().map(({ written }) => written),
    [60],
  );
  t.same(net.rig.logs, []);
});

t.test('a broken ring breaks the device', async (t) => {
  for (const queue of [RX, TX]) {
    using net = new NetRig();
    net.rig.queue(queue).driverArea.setUint16(2, 1000, true);
    net.rig.notify(queue);
    t.match(net.rig.brokenReason, /^(receive|transmit) queue: .*§2\.7/);
  }
});

t.test('§5.1.6.5.1 packets that the filter does not want leave the buffers free', async (t) => {
  using net = new NetRig();
  net.mustControl(0, 0, 0);
  net.addBuffers(1526, 1526);
  net.wire.send(frame(0x0200_0000_0001));
  net.wire.send(frame(OWN_MAC, 5));
  net.wire.send(frame(OWN_MAC));
  net.wire.send(frame(0xffff_ffff_ffff));
  t.same(
    net.received().map(({ data }) => data),
    [frame(OWN_MAC), frame(0xffff_ffff_ffff)].map((bytes) => withBuffers(bytes, 1)),
  );
});
