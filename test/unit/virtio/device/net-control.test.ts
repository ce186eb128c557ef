/** The network device's control queue and filters (virtio 1.3 §5.1.6.5). */
import fc from 'fast-check';
import t from 'tap';
import {
  VIRTIO_NET_CTRL_GUEST_OFFLOADS,
  VIRTIO_NET_CTRL_MAC,
  VIRTIO_NET_CTRL_MAC_ADDR_SET,
  VIRTIO_NET_CTRL_MAC_TABLE_SET,
  VIRTIO_NET_CTRL_MQ,
  VIRTIO_NET_CTRL_RX,
  VIRTIO_NET_CTRL_RX_ALLMULTI,
  VIRTIO_NET_CTRL_RX_ALLUNI,
  VIRTIO_NET_CTRL_RX_NOBCAST,
  VIRTIO_NET_CTRL_RX_NOMULTI,
  VIRTIO_NET_CTRL_RX_NOUNI,
  VIRTIO_NET_CTRL_RX_PROMISC,
  VIRTIO_NET_CTRL_VLAN,
  VIRTIO_NET_CTRL_VLAN_ADD,
  VIRTIO_NET_CTRL_VLAN_DEL,
  VIRTIO_NET_ERR,
  VIRTIO_NET_OK,
} from '../../../../src/abi/virtio-net.ts';
import { CONTROL, frame, NetRig, OWN_MAC } from '../../../support/rigs/net.ts';

const OTHER = 0x0200_0000_0001;
const GROUP = 0x0100_5e00_0001;
const BROADCAST = 0xffff_ffff_ffff;

/** Whether a frame reaches the driver. */
function reaches(net: NetRig, destination: number, vlan = -1): boolean {
  net.addBuffers(1526);
  net.wire.send(frame(destination, vlan));
  return net.received().length === 1;
}

function macBytes(mac: number): number[] {
  return [40, 32, 24, 16, 8, 0].map((bits) => Math.floor(mac / 2 ** bits) & 0xff);
}

function macTable(unicast: readonly number[], multicast: readonly number[]): number[] {
  return [unicast, multicast].flatMap((macs) => [macs.length, 0, 0, 0, ...macs.flatMap(macBytes)]);
}

t.test('everything is received until the driver sets a mode', async (t) => {
  using net = new NetRig();
  for (const mac of [OTHER, GROUP, BROADCAST, OWN_MAC]) t.equal(reaches(net, mac), true);
  t.equal(reaches(net, OTHER, 100), true);
});

t.test('§5.1.6.5.1 receive modes', async (t) => {
  using net = new NetRig();
  const set = (mode: number, on: number) => net.mustControl(VIRTIO_NET_CTRL_RX, mode, on);
  const seen = () => [OWN_MAC, OTHER, GROUP, BROADCAST].map((mac) => reaches(net, mac));
  set(VIRTIO_NET_CTRL_RX_PROMISC, 0);
  t.same(seen(), [true, false, false, true], 'own address and broadcast');
  set(VIRTIO_NET_CTRL_RX_ALLMULTI, 1);
  t.same(seen(), [true, false, true, true], 'all multicast');
  set(VIRTIO_NET_CTRL_RX_ALLUNI, 1);
  t.same(seen(), [true, true, true, true], 'all unicast');
  set(VIRTIO_NET_CTRL_RX_NOMULTI, 1);
  t.same(seen(), [true, true, false, true], 'no multicast');
  set(VIRTIO_NET_CTRL_RX_NOUNI, 1);
  t.same(seen(), [false, false, false, true], 'no unicast');
  set(VIRTIO_NET_CTRL_RX_NOBCAST, 1);
  t.same(seen(), [false, false, false, false], 'no broadcast');
  set(VIRTIO_NET_CTRL_RX_PROMISC, 1);
  t.same(seen(), [true, true, true, true], 'promiscuous');
});

t.test('§5.1.6.5.2 MAC table and address', async (t) => {
  using net = new NetRig();
  net.mustControl(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, 0);
  const table = macTable([OTHER], [GROUP]);
  net.mustControl(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, ...table);
  t.same([reaches(net, OTHER), reaches(net, GROUP), reaches(net, GROUP + 1)], [true, true, false]);
  net.mustControl(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_TABLE_SET, ...macTable([], []));
  t.same([reaches(net, OTHER), reaches(net, GROUP)], [false, false]);
  net.mustControl(VIRTIO_NET_CTRL_MAC, VIRTIO_NET_CTRL_MAC_ADDR_SET, ...macBytes(OTHER));
  t.same([reaches(net, OTHER), reaches(net, OWN_MAC)], [true, false]);
  t.same(
    net.rig.posted,
    [{ mac: Uint8Array.from(macBytes(OTHER)) }],
    'the control half is notified',
  );
});

t.test('§5.1.6.5.3 VLAN filter', async (t) => {
  using net = new NetRig();
  net.mustControl(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, 0);
  t.same([reaches(net, OWN_MAC), reaches(net, OWN_MAC, 5)], [true, false]);
  net.mustControl(VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, 5, 0);
  net.mustControl(VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, 0xff, 0x0f);
  t.same(
    [5, 6, 4095].map((vlan) => reaches(net, OWN_MAC, vlan)),
    [true, false, true],
  );
  net.mustControl(VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_DEL, 5, 0);
  t.equal(reaches(net, OWN_MAC, 5), false);
  const outside = Uint8Array.of(0, 0x10);
  t.equal(net.control(VIRTIO_NET_CTRL_VLAN, VIRTIO_NET_CTRL_VLAN_ADD, outside), VIRTIO_NET_ERR);
});

t.test(
  '§5.1.6.5 commands that were not negotiated, or make no sense, get VIRTIO_NET_ERR',
  async (t) => {
    using net = new NetRig();
    const bad: [string, number, number, number[]][] = [
      ['unknown class', 99, 0, [1]],
      ['unknown receive mode', VIRTIO_NET_CTRL_RX, 6, [1]],
      ['receive mode without its byte', VIRTIO_NET_CTRL_RX, 0, []],
      ['queue pairs without VIRTIO_NET_F_MQ', VIRTIO_NET_CTRL_MQ, 0, [1, 0]],
      [
        'offloads without their feature',
        VIRTIO_NET_CTRL_GUEST_OFFLOADS,
        0,
        [0, 0, 0, 0, 0, 0, 0, 0],
      ],
      ['unknown MAC command', VIRTIO_NET_CTRL_MAC, 7, macBytes(OTHER)],
      ['short MAC address', VIRTIO_NET_CTRL_MAC, 1, [1, 2, 3]],
      ['MAC table cut off', VIRTIO_NET_CTRL_MAC, 0, macTable([OTHER], [GROUP]).slice(0, -1)],
      ['MAC table too long', VIRTIO_NET_CTRL_MAC, 0, [...macTable([], []), 0]],
      ['MAC table with 2^32-1 entries', VIRTIO_NET_CTRL_MAC, 0, [255, 255, 255, 255, 0, 0, 0, 0]],
      ['longer than any command', VIRTIO_NET_CTRL_MAC, 0, Array<number>(70_000).fill(0)],
    ];
    for (const [what, commandClass, command, data] of bad) {
      t.equal(net.control(commandClass, command, Uint8Array.from(data)), VIRTIO_NET_ERR, what);
    }
    t.equal(reaches(net, OTHER), true, 'nothing has changed');
  },
);

t.test('§5.1.6.5 a command without room for the ack breaks the device', async (t) => {
  using net = new NetRig();
  net.rig.queue(CONTROL).add({ readable: [Uint8Array.of(0, 0, 1)] });
  net.rig.kick(CONTROL);
  t.match(net.rig.brokenReason, /ack/);
});

t.test('the driver’s settings outlive a hand-over, and not a reset', async (t) => {
  using net = new NetRig();
  net.mustControl(VIRTIO_NET_CTRL_RX, VIRTIO_NET_CTRL_RX_PROMISC, 0);
  net.rig.handOver(net.handler, net.features);
  t.equal(reaches(net, OTHER), false);
  net.rig.stop();
  net.handler.reset?.();
  net.rig.start(net.handler, net.features, [64, 64, 64]);
  t.equal(reaches(net, OTHER), true);
});

t.test('any bytes get an answer, in any segments, and change nothing else', async (t) => {
  using net = new NetRig({ size: 128 });
  const queue = net.rig.queue(CONTROL);
  const bytes = fc.uint8Array({ minLength: 1, maxLength: 40 });
  const likely = fc
    .tuple(fc.nat(6), fc.nat(6), fc.uint8Array({ maxLength: 24 }))
    .map(([commandClass, command, data]) => Uint8Array.of(commandClass, command, ...data));
  fc.assert(
    fc.property(fc.array(fc.oneof(bytes, likely), { minLength: 1, maxLength: 20 }), (commands) => {
      for (const command of commands) {
        const cut = command.length >> 1;
        const parts = [command.slice(0, cut), command.slice(cut)];
        queue.add({ readable: parts.filter(({ length }) => length > 0), writable: [1] });
      }
      net.rig.kick(CONTROL);
      while (net.rig.pump() > 0);
      const acks = queue.completed().map(({ data }) => data[0]);
      if (net.rig.brokenReason !== undefined) throw new Error(net.rig.brokenReason);
      return (
        acks.length === commands.length &&
        acks.every((ack) => ack === VIRTIO_NET_OK || ack === VIRTIO_NET_ERR)
      );
    }),
  );
  t.pass();
});
