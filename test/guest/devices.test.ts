/** The PCI devices as Linux sees them: capabilities, drivers, features, moves, resets, INTx. */
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import * as ring from '../../src/abi/virtio-ring.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import { testFolder } from '../support/rigs/files.ts';
import { bootGuest, DISK_BY_SERIAL, guestShell } from '../support/rigs/guest.ts';

const folder = testFolder(t);

function makeDisk(name: string): string {
  const file = path.join(folder, name);
  writeFileSync(file, Buffer.alloc(MiB, `${name} `));
  return file;
}

/** Slot of each device on the bus, in the order of `createDevices`. */
const PLAIN = '0000:00:02.0';
const NET = '0000:00:05.0';
const RNG = '0000:00:06.0';

t.test('on MSI-X', async (t) => {
  await using vm = await bootGuest({
    image: 'tools',
    append: 'nodevmm.ip=10.0.7.2/24',
    machine: {
      disks: [
        { path: makeDisk('plain'), serial: 'plain' },
        {
          path: makeDisk('packed'),
          serial: 'packed',
          ring: { packed: true, notificationData: true, inOrder: true },
        },
        {
          path: makeDisk('bare'),
          serial: 'bare',
          ring: { indirect: false, eventIdx: false, ringReset: false },
        },
      ],
      nets: [{ hostAddress: '10.0.7.1/24', ring: { packed: true } }],
      rng: { ring: { packed: true } },
    },
  });
  const sh = (script: string) => guestShell(vm, DISK_BY_SERIAL + script);
  const ping = 'ping -c 2 -W 20 10.0.7.1 >/dev/null';
  const readsPlain = 'dd if=/dev/$(disk plain) bs=64k iflag=direct 2>/dev/null | sha256sum';
  const plainSum = await sh(readsPlain);

  await t.test('lspci shows each device with MSI-X enabled and its capabilities', async (t) => {
    const functions = (await sh('lspci -nn -vv 2>/dev/null')).split(/\n(?=00:)/);
    const expected = [
      /^00:00\.0 Host bridge \[0600\]/,
      /^00:01\.0 .*\[1af4:1043\]/,
      /^00:02\.0 .*\[1af4:1042\]/,
      /^00:03\.0 .*\[1af4:1042\]/,
      /^00:04\.0 .*\[1af4:1042\]/,
      /^00:05\.0 .*\[1af4:1041\]/,
      /^00:06\.0 .*\[1af4:1044\]/,
    ];
    t.equal(functions.length, expected.length);
    expected.forEach((pattern, index) => void t.match(functions[index], pattern));
    for (const text of functions.slice(1)) {
      const name = text.slice(0, 7);
      t.match(text, /Control: .*Mem\+ BusMaster\+ .*DisINTx\+/, `${name} masters the bus`);
      t.match(text, /MSI-X: Enable\+ Count=\d+ Masked-/, `${name} has MSI-X on`);
      t.match(text, /Interrupt: pin A routed to IRQ \d+/, `${name} has a pin`);
      for (const structure of ['CommonCfg', 'ISR', 'Notify']) {
        t.match(text, `VirtIO: ${structure}\n`, `${name} has ${structure}`);
      }
      t.match(text, 'Kernel driver in use: virtio-pci');
    }
  });

  await t.test('each device has its driver', async (t) => {
    const bound = await sh(`for d in /sys/bus/virtio/devices/*; do
      pci=$(readlink -f $d); pci=\${pci%/*}
      echo \${pci##*/} $(basename $(readlink $d/driver))
    done`);
    t.same(bound.split('\n').sort(), [
      '0000:00:01.0 virtio_console',
      '0000:00:02.0 virtio_blk',
      '0000:00:03.0 virtio_blk',
      '0000:00:04.0 virtio_blk',
      '0000:00:05.0 virtio_net',
      '0000:00:06.0 virtio_rng',
    ]);
  });

  await t.test('the requested ring features are negotiated', async (t) => {
    const bits = [
      ring.VIRTIO_F_VERSION_1,
      ring.VIRTIO_F_INDIRECT_DESC,
      ring.VIRTIO_F_EVENT_IDX,
      ring.VIRTIO_F_RING_PACKED,
      ring.VIRTIO_F_NOTIFICATION_DATA,
      ring.VIRTIO_F_RING_RESET,
    ];
    const shown = await sh('cat /sys/bus/pci/devices/*/virtio*/features');
    const features = shown.split('\n').map((set) => bits.map((bit) => set[bit]).join(''));
    t.same(features, ['111001', '111001', '111111', '100000', '111101', '111101']);
  });

  await t.test('/dev/hwrng gives data', async (t) => {
    const sums = await sh(`cat /sys/class/misc/hw_random/rng_current
      for i in 1 2; do dd if=/dev/hwrng bs=512 count=8 iflag=fullblock 2>/dev/null | sha256sum; done`);
    const [current, first, second] = sums.split('\n');
    t.match(current, /^virtio_rng/);
    t.match(first, /^[0-9a-f]{64}/);
    t.not(first, second);
  });

  await t.test('a device whose BARs were moved works again', async (t) => {
    const regions = `lspci -vv -s ${PLAIN} 2>/dev/null | grep Region`;
    const before = await sh(regions);
    const after = await sh(`echo 1 >/sys/bus/pci/devices/${PLAIN}/remove
      setpci -s ${PLAIN} COMMAND=0 BASE_ADDRESS_0=d0100000 BASE_ADDRESS_2=d0200000 BASE_ADDRESS_4=d0300000
      echo 1 >/sys/bus/pci/rescan
      ${regions}`);
    t.not(after, before);
    t.equal(await sh(readsPlain), plainSum);
  });

  await t.test('a device that was removed and found again works', async (t) => {
    await sh(`for d in ${NET} ${RNG}; do echo 1 >/sys/bus/pci/devices/$d/remove; done
      echo 1 >/sys/bus/pci/rescan
      until [ -e /sys/class/net/eth0 ] && [ -e /dev/hwrng ]; do sleep 0.1; done
      ip addr add 10.0.7.2/24 dev eth0; ip link set eth0 up
      ${ping}
      head -c 64 /dev/hwrng >/dev/null`);
    t.pass();
  });

  await t.test('drivers are unbound under traffic and bound again', async (t) => {
    const rebind = (driver: string, device: string) => `
      id=$(basename /sys/bus/pci/devices/${device}/virtio*)
      echo $id >/sys/bus/virtio/drivers/${driver}/unbind
      echo $id >/sys/bus/virtio/drivers/${driver}/bind`;
    await sh(`d=$(disk packed)
      fio --name=traffic --filename=/dev/$d --rw=randread --bs=4k --direct=1 --ioengine=libaio \
        --iodepth=16 --time_based --runtime=600 >/dev/null 2>&1 & pid=$!
      until [ $(awk '{print $1}' /sys/block/$d/stat) -gt 100 ]; do sleep 0.1; done
      ${rebind('virtio_blk', '0000:00:03.0')}
      kill $pid || true; wait || true
      dd if=/dev/$(disk packed) of=/dev/null bs=64k iflag=direct`);
    t.pass('blk');
    await sh(`ping -A -s 1400 10.0.7.1 >/dev/null 2>&1 & pid=$!
      until [ $(cat /sys/class/net/eth0/statistics/rx_packets) -gt 100 ]; do sleep 0.1; done
      ${rebind('virtio_net', NET)}
      kill $pid || true; wait || true
      until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done
      ip addr add 10.0.7.2/24 dev eth0; ip link set eth0 up
      ${ping}`);
    t.pass('net');
    await sh(`cat /dev/hwrng >/dev/null 2>&1 & pid=$!
      ${rebind('virtio_rng', RNG)}
      kill $pid 2>/dev/null || true; wait || true
      dd if=/dev/hwrng of=/dev/null bs=64 count=1`);
    t.pass('rng');
  });
});

t.test('on INTx', async (t) => {
  await using vm = await bootGuest({
    append: 'pci=nomsi nodevmm.ip=10.0.8.2/24',
    machine: {
      disks: [{ path: makeDisk('intx'), serial: 'intx' }],
      nets: [{ hostAddress: '10.0.8.1/24' }],
    },
  });
  const interrupts = await guestShell(
    vm,
    `dd if=/dev/vda of=/dev/null bs=4k iflag=direct
    ping -c 3 10.0.8.1 >/dev/null
    dd if=/dev/hwrng of=/dev/null bs=64 count=4
    grep virtio /proc/interrupts`,
  );
  const lines = interrupts.split('\n');
  t.equal(lines.length, 4, 'one interrupt for each device');
  for (const line of lines) t.match(line, /^ *\d+: +[1-9]\d* +IO-APIC +\d+-fasteoi +virtio\d/);
});
