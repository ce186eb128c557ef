/** The command line's ways to a device in another process. */
import t from 'tap';
import { parseVhostUser } from '../../../src/cli/run/vhost-user-options.ts';

t.test('each option, with its keys', (t) => {
  const devices = parseVhostUser({
    disk: ['disk.raw', 'vhost-user=/s/blk,queues=2,timeout=500,peer-uid=1000,packed'],
    net: ['auto', 'vhost-user=/s/net,mac=52:54:00:12:34:56,server'],
    fs: ['tag=home,vhost-user=/s/fs,transport=mmio'],
    device: ['./own.ts', 'vhost-user,type=4,socket=/s/rng,config-size=8'],
  });
  t.strictSame(devices, [
    {
      type: 'blk',
      socket: '/s/blk',
      queues: 2,
      timeoutMs: 500,
      peerUid: 1000,
      ring: { packed: true },
    },
    { type: 'net', socket: '/s/net', server: true, mac: '52:54:00:12:34:56' },
    { type: 'fs', socket: '/s/fs', transport: 'mmio', tag: 'home' },
    { type: 4, socket: '/s/rng', configSize: 8 },
  ]);
  t.end();
});

t.test('what cannot be is one line', (t) => {
  const refused: readonly (readonly [Parameters<typeof parseVhostUser>[0], RegExp])[] = [
    [{ fs: ['vhost-user=/s'] }, /has no tag=NAME/],
    [{ device: ['vhost-user,type=4'] }, /has no socket=PATH/],
    [{ device: ['vhost-user,socket=/s'] }, /has no type=ID/],
    [{ device: ['vhost-user,type=disk,socket=/s'] }, /has no type=ID/],
    [{ disk: ['vhost-user=/s,ro'] }, /does not know ro/],
    [{ net: ['vhost-user=/s,queues=0'] }, /queues=0; take a whole number/],
  ];
  for (const [flags, message] of refused) {
    t.throws(() => parseVhostUser(flags), { code: 'E_OPTION', message });
  }
  t.end();
});
