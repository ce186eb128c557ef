/** Drivers that the guest names: whatever it answers, and whenever. */
import t from 'tap';
import {
  askDrivers,
  GuestDrivers,
  type GuestShell,
  parseDrivers,
} from '../../../src/inspect/guest-drivers.ts';

t.test('an answer’s lines', (t) => {
  const line = (place: string, driver: string): string =>
    `lrwxrwxrwx    1 root     root             0 Nov 29 23:01 pci/devices/${place}/driver -> ../../../bus/pci/drivers/${driver}`;
  const answer = [
    line('0000:00:01.0', 'virtio-pci'),
    line('0000:00:02.0', 'uio_pci_generic'),
    line('0000:00:03.0', 'vfio-pci'),
    line('0000:00:04.0', 'nvme'),
    line('0001:00:05.0', 'other'),
    line('0000:00:06.0', 'x'.repeat(40)),
    line('0000:00:07.0', '\x1b[2J'),
    line('0000:00:08.0', 'virtio-pci'),
    line('0000:00:01.0/virtio0', 'virtio_console'),
    'lrwx platform/devices/LNRO0005:00/virtio1/driver -> ../../../../bus/virtio/drivers/virtio_net',
    'lrwx platform/devices/LNRO0005:0a/virtio2/driver -> ../../../../bus/virtio/drivers/virtio_blk',
    'lrwx platform/devices/LNRO0005:0b/virtio3/driver -> ../../../../bus/virtio/drivers/\x1b',
    'ls: nosuch: No such file or directory',
  ].join('\n');
  t.same(
    [...parseDrivers(answer)],
    [
      ['PCI 00:01.0', { name: 'virtio_console', userland: false }],
      ['PCI 00:02.0', { name: 'uio_pci_generic', userland: true }],
      ['PCI 00:03.0', { name: 'vfio-pci', userland: true }],
      ['PCI 00:04.0', { name: 'nvme', userland: false }],
      ['PCI 00:08.0', { name: 'virtio-pci', userland: false }],
      ['MMIO 0xf0000000', { name: 'virtio_net', userland: false }],
      ['MMIO 0xf0014000', { name: 'virtio_blk', userland: false }],
    ],
  );
  t.end();
});

t.test('the guest is asked within bounds', async (t) => {
  const asked: unknown[] = [];
  const guest: GuestShell = {
    exec: async (_, options) => {
      asked.push(options);
      return {
        stdout: Buffer.from('lrwx pci/devices/0000:00:04.0/driver -> ../nvme\n'),
        stderr: Buffer.alloc(0),
        exitCode: 0,
      };
    },
  };
  t.equal((await askDrivers(guest)).size, 1);
  t.match(asked, [{ timeout: Number, maxBuffer: Number }]);
});

t.test('views get the last answer, and do not wait', async (t) => {
  let asked = 0;
  let answer: (fails: boolean) => void = () => {};
  const drivers = new GuestDrivers(() => {
    asked++;
    return new Promise((resolve, reject) => {
      answer = (fails) => {
        if (fails) reject(new Error('no agent'));
        else resolve(new Map([['PCI 00:01.0', { name: 'x', userland: false }]]));
      };
    });
  });
  t.equal(drivers.known.size, 0);
  t.equal(drivers.known.size, 0);
  t.equal(asked, 1, 'one request at a time');
  const done = drivers.refresh();
  answer(false);
  await done;
  t.equal(drivers.known.size, 1);
  t.equal(asked, 1, 'and not again at once');
  const failed = drivers.refresh();
  answer(true);
  await failed;
  t.equal(drivers.known.size, 0, 'a guest that no longer answers');
  t.equal(asked, 2);
});
