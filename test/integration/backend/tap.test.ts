/** Taps: real ones where the host lets us, errors everywhere. */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import t from 'tap';
import { EAGAIN } from '../../../src/abi/errno.ts';
import { IFF_MULTI_QUEUE, TUN_F_CSUM, TUN_F_TSO4 } from '../../../src/abi/tun.ts';
import { Tap } from '../../../src/backend/tap.ts';
import { TapQueue } from '../../../src/backend/tap-queue.ts';
import { NativeMemory } from '../../../src/host/native-memory.ts';
import { OTHER_UID, otherUserReason, tapReason } from '../../support/rigs/host.ts';

const skip = tapReason();

t.test('names and addresses that cannot be are refused in one line', async (t) => {
  for (const name of ['', 'a'.repeat(16), 'a b', 'a/b', 'tap%d', '..']) {
    t.throws(() => new Tap({ name }), { name: 'UsageError', code: 'E_TAP_NAME' }, name);
  }
  for (const hostAddress of ['', '10.0.0.1', '10.0.0.256/24', '10.0.0.1/33', 'fd00::1/64']) {
    t.throws(() => new Tap({ hostAddress }), { code: 'E_HOST_ADDRESS' }, hostAddress);
  }
});

t.test('an interface of another kind is no tap', async (t) => {
  t.throws(() => new Tap({ name: 'lo' }), { name: 'UsageError', code: 'E_TAP_KIND' });
});

t.test('a tap made here is up, has its address, and is gone after close', { skip }, async (t) => {
  const tap = new Tap({ hostAddress: '10.199.7.1/29', mtu: 1400 });
  t.match(tap.name, /^nodevmm\d+$/);
  t.equal(tap.made, true);
  t.equal(tap.mtu, 1400);
  t.equal(tap.offloads & (TUN_F_CSUM | TUN_F_TSO4), TUN_F_CSUM | TUN_F_TSO4);
  const shown = execFileSync('ip', ['-o', 'address', 'show', 'dev', tap.name], {
    encoding: 'utf8',
  });
  t.match(shown, /inet 10\.199\.7\.1\/29 /);
  t.throws(() => new Tap({ name: tap.name }), { name: 'UsageError', code: 'E_TAP_BUSY' });
  tap.close();
  tap.close();
  t.equal(existsSync(`/sys/class/net/${tap.name}`), false);
});

t.test('no other user can join a tap made here', { skip: skip || otherUserReason() }, async (t) => {
  for (const queues of [1, 2]) {
    using tap = new Tap({ queues });
    const owner = readFileSync(`/sys/class/net/${tap.name}/owner`, 'latin1');
    t.equal(owner, `${process.geteuid?.()}\n`);
    process.seteuid?.(OTHER_UID);
    try {
      t.throws(() => new Tap({ name: tap.name, queues }), { code: 'E_TAP_PERMISSION' });
    } finally {
      process.seteuid?.(0);
    }
  }
});

t.test('an existing tap is used as it is, and stays', { skip }, async (t) => {
  const name = `nvt${process.pid % 1_000_000}`;
  execFileSync('ip', ['tuntap', 'add', 'dev', name, 'mode', 'tap', 'multi_queue']);
  t.teardown(() =>
    execFileSync('ip', ['tuntap', 'del', 'dev', name, 'mode', 'tap', 'multi_queue']),
  );
  for (const queues of [1, 3]) {
    using tap = new Tap({ name, queues });
    t.equal(tap.made, false);
    t.equal(tap.fds.length, queues);
  }
  t.equal(existsSync(`/sys/class/net/${name}`), true);
});

t.test('an existing tap with one queue is not enough for two', { skip }, async (t) => {
  using tap = new Tap();
  t.throws(() => new Tap({ name: tap.name, queues: 2 }), { code: 'E_TAP_QUEUES' });
});

t.test('queues of a multi-queue tap attach and detach', { skip }, async (t) => {
  using tap = new Tap({ queues: 2 });
  const flags = Number(readFileSync(`/sys/class/net/${tap.name}/tun_flags`, 'utf8'));
  t.equal(flags & IFF_MULTI_QUEUE, IFF_MULTI_QUEUE);
  const queue = new TapQueue(tap.fds[1] as number);
  t.equal(queue.setAttached(false), 0);
  t.ok(queue.setAttached(false) < 0, 'detached already');
  t.equal(queue.setAttached(true), 0);
  const buffer = new NativeMemory(2048);
  const first = new TapQueue(tap.fds[0] as number);
  let result = 0;
  do {
    result = first.receiveInto(buffer.address, 2048);
  } while (result > 0);
  t.equal(result, -EAGAIN);
});
