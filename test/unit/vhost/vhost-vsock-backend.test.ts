/** vhost-vsock: the guest's context ID, and when the kernel serves its queues. */
import t from 'tap';
import { EADDRINUSE } from '../../../src/abi/errno.ts';
import { VhostVsockBackend } from '../../../src/vhost/vhost-backend.ts';
import { FakeVhost } from '../../support/fakes/vhost.ts';

t.test('the context ID is taken at once, the queues when they run', (t) => {
  const kernel = new FakeVhost(0n);
  using backend = new VhostVsockBackend(kernel.open(), 0xffff_fffe);
  t.same(backend.queues, [0, 1]);
  t.equal(kernel.cid, 0xffff_fffen);
  t.equal(kernel.running, -1);
  backend.run();
  t.equal(kernel.running, 1);
  backend.halt();
  t.equal(kernel.running, 0);
  t.end();
});

t.test("another guest's context ID is refused in one line", (t) => {
  const kernel = new FakeVhost(0n);
  kernel.fails = 'VHOST_VSOCK_SET_GUEST_CID';
  kernel.errno = EADDRINUSE;
  t.throws(() => new VhostVsockBackend(kernel.open(), 3), {
    name: 'UsageError',
    code: 'E_CID',
    message: /^another guest .* ID 3; choose another, or use vhost=off$/,
  });
  kernel.errno = 22;
  t.throws(() => new VhostVsockBackend(kernel.open(), 3), { name: 'HostError', code: 'EINVAL' });
  t.end();
});
