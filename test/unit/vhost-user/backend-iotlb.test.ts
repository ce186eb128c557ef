/** What a backend keeps of the addresses that its frontend's IOMMU translates. */
import t, { type Test } from 'tap';
import * as abi from '../../../src/abi/vhost.ts';
import { ACCESS_READ, ACCESS_WRITE } from '../../../src/memory/guest-memory.ts';
import { createMemoryFile } from '../../../src/memory/ram.ts';
import { GiB, MiB } from '../../../src/memory/ram-layout.ts';
import type { IotlbMessage } from '../../../src/vhost/iotlb-message.ts';
import { BackendIotlb } from '../../../src/vhost-user/backend/backend-iotlb.ts';
import { FrontendMemory } from '../../../src/vhost-user/backend/frontend-memory.ts';

const PAGE = 4096;
const RW = ACCESS_READ | ACCESS_WRITE;
/** Where the frontend says that it has guest RAM. */
const USER = 2 ** 46;

function setUp(t: Test) {
  const memory = new FrontendMemory();
  const file = createMemoryFile('test', 4 * MiB, 'a test');
  memory.replace([{ gpa: 0, size: 4 * MiB, userAddress: USER, mmapOffset: 0 }], [file]);
  const iotlb = new BackendIotlb(memory);
  t.teardown(() => {
    iotlb.close();
    memory.close();
  });
  const change = (type: number, rest: Partial<IotlbMessage>): void =>
    iotlb.change({ type, iova: GiB, size: PAGE, uaddr: USER, perm: RW, ...rest });
  return {
    memory,
    space: iotlb.space,
    update: (rest: Partial<IotlbMessage>) => change(abi.VHOST_IOTLB_UPDATE, rest),
    invalidate: (rest: Partial<IotlbMessage>) => change(abi.VHOST_IOTLB_INVALIDATE, rest),
    change,
  };
}

t.test('what the frontend has sent is reached, and nothing else', async (t) => {
  const { memory, space, update, invalidate } = setUp(t);
  memory.view?.writeU32(5 * PAGE, 77);
  update({ uaddr: USER + 5 * PAGE, size: 2 * PAGE, perm: ACCESS_READ });
  const at = space.memory.offset(GiB, 2 * PAGE);
  t.equal(space.memory.readU32(at), 77);
  t.equal(space.memory.offset(GiB, 1, true), -1, 'not to write to');
  t.equal(space.memory.offset(GiB + 2 * PAGE, 1), -1);
  invalidate({ iova: GiB + PAGE });
  t.equal(space.memory.offset(GiB, 1), -1, 'a part takes all of it along');
});

t.test('an entry that is repeated while it is in use stays in place', async (t) => {
  const { space, update } = setUp(t);
  update({});
  const [entry] = space.table.all;
  update({});
  t.equal(space.table.all[0], entry);
  for (const rest of [{ perm: ACCESS_READ }, { uaddr: USER + PAGE }, { size: 2 * PAGE }]) {
    update(rest);
    t.equal(space.table.all.length, 1);
    t.not(space.table.all[0], entry);
  }
});

t.test('entries that make no sense', async (t) => {
  const { space, update, change } = setUp(t);
  for (const rest of [
    { iova: 1 },
    { size: 1 },
    { size: 0 },
    { uaddr: USER + 1 },
    { perm: 4 },
    { uaddr: USER - PAGE },
    { uaddr: USER + 4 * MiB - PAGE, size: 2 * PAGE },
    { iova: space.share.size },
    { iova: 2 ** 64, size: 2 ** 64 },
  ]) {
    t.throws(() => update(rest), JSON.stringify(rest));
  }
  t.throws(() => change(77, {}), /type 77/);
  t.same(space.table.all, []);
});
