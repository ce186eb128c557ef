/** Peers of other users get neither the guest's memory nor a device. */
import { once } from 'node:events';
import path from 'node:path';
import t from 'tap';
import { VsockSockets } from '../../../src/backend/vsock-sockets.ts';
import { ListenPath } from '../../../src/host/listen-path.ts';
import { UnixSocket } from '../../../src/host/unix-socket.ts';
import { deviceShape } from '../../../src/machine/devices/virtio-plan.ts';
import { ConnectingBackend } from '../../../src/vhost-user/backend/backend.ts';
import { BackendDevice } from '../../../src/vhost-user/backend/backend-device.ts';
import { VhostUserDevice } from '../../../src/vhost-user/frontend/vhost-user-device.ts';
import { createRngDevice } from '../../../src/virtio/device/rng/rng.ts';
import { otherKind } from '../../../src/virtio/frontend-device.ts';
import {
  asOtherUser,
  OTHER_UID,
  OtherListener,
  otherUserReason,
  SharedFolder,
} from '../../support/rigs/host.ts';

const skip = otherUserReason();

t.test("another user's backend gets nothing", { skip }, async (t) => {
  using folder = new SharedFolder();
  const socket = path.join(folder.path, 's');
  using listener = await OtherListener.open(socket);
  const shape = { deviceId: 4, queues: 1, queueSize: 64, configSize: 0 };
  const open = (peerUid?: number) =>
    VhostUserDevice.open('test0', { socket, server: false, timeoutMs: 100, peerUid }, (session) =>
      otherKind(session, shape),
    );
  const refused = {
    name: 'UsageError',
    code: 'E_PEER_USER',
    message: /^the peer at .* is user 65534, neither root nor you; .*peer-uid/,
  };
  await t.rejects(open(), refused);
  t.equal(await listener.next(), 'received 0');
  await t.rejects(open(1), refused, 'another user is trusted');
  t.equal(await listener.next(), 'received 0');
  await t.rejects(open(OTHER_UID), { message: /unanswered/ }, 'unless that user is trusted');
  t.not(await listener.next(), 'received 0');
});

t.test("another user's frontend is not served", { skip }, async (t) => {
  using folder = new SharedFolder();
  const socket = path.join(folder.path, 's');
  using listener = await OtherListener.open(socket);
  const device = createRngDevice({ name: 'rng0' });
  const shape = deviceShape(device, { packed: true, ringReset: false });
  const logs: string[] = [];
  const log = (text: string): void => void logs.push(text);
  await using exported = new BackendDevice(device, shape.features, shape.queueSizes, log);
  {
    await using _calling = new ConnectingBackend(socket, exported);
    t.equal(await listener.next(), 'received 0', 'it is disconnected');
    t.match(logs.join('\n'), /waiting for a frontend.*user 65534/);
    t.equal(await listener.next(), 'received 0', 'each time');
    t.equal(logs.length, 1, 'in one line');
  }
  await using _calling = new ConnectingBackend(socket, exported, OTHER_UID);
  t.match(logs.at(-1), /connected to/, 'unless that user is trusted');
});

t.test('who may connect to a socket that listens', { skip }, async (t) => {
  using folder = new SharedFolder();
  const socket = path.join(folder.path, 's');
  const call = (): Promise<unknown[]> =>
    once(
      asOtherUser(`
        const socket = require('node:net').connect(${JSON.stringify(socket)});
        socket.on('error', () => process.exit(1)).on('connect', () => process.exit(0));`),
      'exit',
    );
  {
    using _listening = new ListenPath(socket);
    t.equal((await call())[0], 1, 'the kernel lets no other user');
  }
  using listening = new ListenPath(socket, { forAll: true });
  t.equal((await call())[0], 0);
  t.equal(UnixSocket.accept(listening.fd, 1), undefined, 'one that is not trusted is hung up on');
  t.equal((await call())[0], 0);
  using accepted = UnixSocket.accept(listening.fd, OTHER_UID);
  t.equal(accepted?.peerUid(), OTHER_UID);
  using own = UnixSocket.connect(socket);
  t.equal(own.peerUid(), process.geteuid?.());
});

t.test("a guest does not reach another user's program by vsock", { skip }, async (t) => {
  using folder = new SharedFolder();
  const file = path.join(folder.path, 'vm');
  using listener = await OtherListener.open(`${file}_52`);
  {
    using sockets = new VsockSockets(file, 4, () => {});
    const stream = sockets.connect(52, () => t.fail('not accepted'));
    const [error] = (await once(stream, 'error')) as [{ code?: string }];
    t.equal(error.code, 'E_PEER_USER');
    t.equal(await listener.next(), 'received 0');
  }
  using sockets = new VsockSockets(file, 4, () => {}, OTHER_UID);
  const accepted = await new Promise<boolean>((resolve) => {
    const stream = sockets.connect(52, () => {
      stream.ref().end('hello');
      resolve(true);
    });
    stream.ref().on('error', () => resolve(false));
  });
  t.ok(accepted, 'unless that user is trusted');
  t.equal(await listener.next(), 'received 5');
});
