/** What guest RAM is made of, by who reaches it. */
import t from 'tap';
import { chooseRam } from '../../../src/machine/guest-ram.ts';
import { resolveOptions } from '../../../src/machine/resolve-options.ts';
import { freeHugePages } from '../../../src/memory/huge-pages.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';

const software = { vdpa: 'auto', mgmtdev: 'vdpasim_net' };
const hardware = { vdpa: 'auto', mgmtdev: 'pci/0000:01:00.0' };
const vhostUser = { vhostUser: { socket: '/s' } };

t.test('what it is made of', async (t) => {
  const choose = (nets: readonly object[], free: number, hugePages = false): string => {
    const options = { kernel: '/k', memory: 512 * MiB, nets, hugePages } as const;
    const limits = { freeHugePages: free, lockedMemory: 512 * MiB };
    return chooseRam(resolveOptions(options as never), () => limits);
  };
  t.equal(choose([], 1024 * MiB), 'anonymous');
  t.equal(choose([], 0, true), 'hugetlb');
  t.equal(choose([vhostUser], 1024 * MiB), 'memfd');
  t.equal(choose([software], 1024 * MiB), 'memfd');
  t.equal(choose([hardware], 512 * MiB), 'hugetlb');
  t.equal(choose([hardware], 511 * MiB), 'anonymous');
  t.equal(choose([hardware, software], 0), 'memfd');
  t.equal(choose([software, hardware], 512 * MiB), 'hugetlb');
});

t.test('too little memory may be locked', async (t) => {
  const machine = resolveOptions({ kernel: '/k', memory: 512 * MiB, nets: [software, hardware] });
  const limits = { freeHugePages: 0, lockedMemory: 8 * MiB };
  t.throws(() => chooseRam(machine, () => limits), {
    code: 'E_VDPA',
    message:
      /^net1 needs all 512 MiB of guest RAM locked, but the limit is 8 MiB; raise it with "ulimit -l"/,
  });
  const others = resolveOptions({ kernel: '/k', memory: 512 * MiB, nets: [software] });
  t.equal(
    chooseRam(others, () => limits),
    'memfd',
  );
});

t.test('free huge pages', async (t) => {
  const info = (free: number): string =>
    `HugePages_Total:      16\nHugePages_Free:       ${free}\nHugePages_Rsvd:        3\nHugepagesize:       2048 kB\n`;
  t.equal(freeHugePages(info(10)), 14 * MiB);
  t.equal(freeHugePages(info(2)), 0);
  t.equal(freeHugePages('MemTotal: 1 kB\n'), 0);
});
