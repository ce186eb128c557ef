/** Pages that take notifications. */
import { openSync, readSync } from 'node:fs';
import t from 'tap';
import { Fd } from '../../../src/host/fd.ts';
import { createMemoryFile } from '../../../src/memory/ram.ts';
import { BarPages } from '../../../src/pci/bar-pages.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import { NotifyPages } from '../../../src/vdpa/notify-pages.ts';

t.test('one for each queue, which is there before a guest reads it', async (t) => {
  using file = createMemoryFile('pages', 3 * 4096, 'pages');
  const pages = NotifyPages.map(file.fd, 3);
  t.equal(new Set(pages?.addresses).size, 3);
  const indices = [0, 1, 2].map((queue) => {
    const read = Buffer.alloc(2);
    readSync(file.fd, read, 0, 2, queue * 4096);
    return read.readUInt16LE();
  });
  t.same(indices, [0, 1, 2], 'each was notified once');
  pages?.close();
  pages?.close();
});

t.test('a parent without', async (t) => {
  using file = new Fd(openSync('/dev/null', 'r+'));
  t.equal(NotifyPages.map(file.fd, 2), undefined);
});

t.test('a memory slot that KVM refuses: accesses stay exits', (t) => {
  const pages = new BarPages(new SharedState(SharedState.allocate(4096)), -1, 8, 1);
  pages.move(0, { offset: 0, size: 4096, address: 0 }, 0xc000_0000);
  t.equal(pages.slotOf(0), undefined);
  t.end();
});
