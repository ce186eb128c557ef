/**
 * A reboot of a guest whose devices are behind the IOMMU leaves no mapping of the guest before: in the domains, in this process, and
 * in that of a vhost-user backend. (The kernel does not show what vhost keeps: test/unit/vhost has that, and test/long/lab/vfio the
 * host's IOMMU.)
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { testFolder } from '../../support/rigs/files.ts';
import { bootGuest, DISK_BY_SERIAL, guestShell } from '../../support/rigs/guest.ts';
import { BUNDLE, untilListening } from '../../support/rigs/host.ts';

const HOST = '10.0.9.1';
const folder = testFolder(t);
const at = (name: string): string => path.join(folder, name);
for (const name of ['own', 'served']) {
  writeFileSync(at(name), '');
  truncateSync(at(name), 16 * MiB);
}
const server = spawn(
  process.execPath,
  [BUNDLE, 'serve', 'blk', `${at('served')},serial=served`, '--socket', at('socket')],
  { stdio: ['ignore', 'inherit', 'inherit'] },
);
t.teardown(() => server.kill());
await untilListening(at('socket'), server);
const vm = await bootGuest({
  append: 'nodevmm.ip=10.0.9.2/24',
  machine: {
    memory: 256 * MiB,
    iommu: true,
    disks: [
      { path: at('own'), serial: 'own' },
      { vhostUser: { socket: at('socket') }, iommu: 'on' },
    ],
    nets: [{ hostAddress: `${HOST}/24`, vhost: 'on' }],
  },
});
t.teardown(() => vm.close());

/** How often a process has mapped pieces of the guest's RAM, by how much of it. */
function mapped(pid: number): number[] {
  const maps = readFileSync(`/proc/${pid}/maps`, 'latin1').matchAll(/^(\w+)-(\w+) .*nodevmm-ram/gm);
  return [...maps].map(
    ([, from = '', to = '']) => Number.parseInt(to, 16) - Number.parseInt(from, 16),
  );
}
const inUse = async (): Promise<boolean> => {
  await guestShell(
    vm,
    `${DISK_BY_SERIAL}
    for s in own served; do dd if=/dev/$(disk $s) of=/dev/null bs=64k count=64 iflag=direct 2>/dev/null; done
    ping -c 3 -s 4000 -W 20 ${HOST} >/dev/null`,
  );
  const { iommu } = await vm.inspect();
  return iommu?.endpoints.every(({ domain, mappings }) => domain !== null && mappings > 0) ?? false;
};

for (const round of [1, 2]) {
  t.test(`reboot ${round}`, async (t) => {
    t.ok(await inUse(), 'each device has mappings');
    t.ok(mapped(server.pid ?? 0).length > 1, 'in the backend too');
    const rebooted = once(vm, 'reboot');
    vm.spawn(['reboot', '-f']).exit.catch(() => {});
    await rebooted;
    const { iommu } = await vm.inspect();
    t.same(
      iommu?.endpoints.filter(({ domain, mappings }) => domain !== null || mappings !== 0),
      [],
      'no domain, no mapping',
    );
    const all = 1 + (iommu?.endpoints.length ?? 0);
    t.same(
      mapped(process.pid),
      new Array(all).fill(256 * MiB),
      'all guest RAM, once for us, and once for each device, none of which has a driver yet',
    );
    t.same(mapped(server.pid ?? 0), [256 * MiB]);
    await vm.ready();
  });
}

t.test('all of them work again', async (t) => {
  t.ok(await inUse());
  t.equal(await guestShell(vm, 'dmesg | grep -c "fault from" || true'), '0');
});
