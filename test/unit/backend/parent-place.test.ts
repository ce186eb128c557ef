/** Where a vDPA device's queues are served, by its place in sysfs. */
import t from 'tap';
import { parentPlace, placeOf } from '../../../src/backend/parent-place.ts';

t.test('processes, hardware, and the kernel', (t) => {
  for (const [folder, place] of [
    ['/sys/devices/virtual/vduse/disk0/disk0/vhost-vdpa-0', 'process'],
    ['/sys/devices/pci0000:00/0000:00:04.0/vdpa0/vhost-vdpa-0', 'hardware'],
    ['/sys/devices/vdpasim_net/sim0/vhost-vdpa-0', 'kernel'],
  ] as const) {
    t.equal(placeOf(folder), place, folder);
  }
  t.end();
});

t.test('a file that is none', (t) => {
  t.equal(parentPlace('/nosuch'), undefined);
  t.end();
});
