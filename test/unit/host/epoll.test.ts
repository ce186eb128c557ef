import t from 'tap';
import { EPOLLET, EPOLLIN, EPOLLOUT, Epoll } from '../../../src/host/epoll.ts';
import { Eventfd } from '../../../src/host/fd.ts';

t.test('wait returns tokens and events of what is ready', async (t) => {
  using epoll = new Epoll(4);
  using first = new Eventfd();
  using second = new Eventfd();
  epoll.add(first.fd, EPOLLIN, 7);
  epoll.add(second.fd, EPOLLIN, 0xffff_ffff);
  t.equal(epoll.wait(0), 0);
  second.signal();
  t.same([epoll.wait(-1), epoll.token(0), epoll.events(0)], [1, 0xffff_ffff, EPOLLIN]);
  t.equal(epoll.wait(0), 1, 'level triggered');
  epoll.modify(second.fd, EPOLLIN | EPOLLOUT, 9);
  t.same([epoll.wait(0), epoll.token(0), epoll.events(0)], [1, 9, EPOLLIN | EPOLLOUT]);
  epoll.remove(second.fd);
  first.signal();
  t.same([epoll.wait(0), epoll.token(0)], [1, 7]);
});

t.test('edge triggered, each signal is reported once, drained or not', async (t) => {
  using epoll = new Epoll(4);
  using kick = new Eventfd();
  kick.signal();
  epoll.add(kick.fd, EPOLLIN | EPOLLET, 1);
  t.same([epoll.wait(0), epoll.wait(0)], [1, 0], 'signalled before');
  kick.signal();
  t.same([epoll.wait(0), epoll.wait(0)], [1, 0]);
});

t.test('a refused descriptor is named', async (t) => {
  using epoll = new Epoll(1);
  const refused = { name: 'HostError', call: 'epoll_ctl', code: 'EBADF' };
  t.throws(() => epoll.add(epoll.fd + 1000, EPOLLIN, 1), refused);
  t.doesNotThrow(() => epoll.remove(epoll.fd + 1000), 'closed, and gone from the set with that');
});
