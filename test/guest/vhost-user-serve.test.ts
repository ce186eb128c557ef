/** nodevmm at both ends of vhost-user, in one guest: a console, and a device of a person's own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { virtio_console_config } from '../../src/abi/virtio-console.ts';
import { withModules } from '../../src/guest/guest-modules.ts';
import { buildGuest } from '../../src/guest/guests.ts';
import { createGuest } from '../support/guest.ts';
import { guestShell } from '../support/guest-shell.ts';

const PROGRAM = fileURLToPath(new URL('../../bundle/bin/main.js', import.meta.url));
const EXAMPLE = fileURLToPath(new URL('../../../guests/example/', import.meta.url));

const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-serve-'));
const at = (name: string): string => path.join(folder, name);
const children = new Map<string, ChildProcess>();
t.teardown(() => {
  for (const child of children.values()) child.kill('SIGKILL');
  rmSync(folder, { recursive: true });
});

/** Starts `nodevmm serve`, and waits until it listens. */
async function serve(name: string, ...args: string[]): Promise<ChildProcess> {
  const argv = [PROGRAM, 'serve', ...args, '--socket', at(`${name}.sock`)];
  const child = spawn(process.execPath, argv, { stdio: ['pipe', 'pipe', 'pipe'] });
  children.set(name, child);
  let said = '';
  await new Promise<void>((resolve, reject) => {
    child.stderr.on('data', (chunk: Buffer) => {
      said += chunk;
      if (said.includes('listening on')) resolve();
    });
    child.once('exit', () => reject(new Error(`serve ${name} ended: ${said}`)));
  });
  return child;
}

const [guest, console_] = await Promise.all([
  buildGuest('tools').then((built) => withModules(built, [`${EXAMPLE}driver`])),
  serve('console', 'console'),
  serve('own', `${EXAMPLE}device.ts`),
]);
const vm = await createGuest({
  image: 'tools',
  machine: {
    initrd: guest.initrd,
    cpus: 2,
    vhostUser: [
      {
        type: 3,
        socket: at('console.sock'),
        queues: 4,
        configSize: virtio_console_config.size,
        ring: { queueSize: 128 },
      },
      { type: 42, socket: at('own.sock'), configSize: 12, ring: { queueSize: 16 } },
    ],
  },
});
t.teardown(() => vm[Symbol.asyncDispose]());
await vm.start();
await vm.ready();
const sh = (script: string): Promise<string> => guestShell(vm, script);

t.test('a device of a person, with its own driver', async (t) => {
  await sh('until [ -e /dev/virtio-example ]; do sleep 0.1; done; echo Hello >/dev/virtio-example');
  t.equal(await sh('cat /dev/virtio-example'), 'HELLO');
  t.equal(await sh('cat /sys/class/misc/virtio-example/served'), '1', 'it hears of a change');
  // What it writes gets there by another way than its buffers, which may be faster.
  await sh(`echo 1 >/sys/class/misc/virtio-example/mode
    for i in 1 2 3 4 5; do echo Hello >/dev/virtio-example; cat /dev/virtio-example >/tmp/said; done`);
  t.equal(await sh('cat /tmp/said'), 'Uryyb', 'it writes configuration');
});

t.test('a console, both ways', async (t) => {
  let shown = '';
  console_.stdout?.on('data', (chunk: Buffer) => {
    shown += chunk;
  });
  await sh('until [ -c /dev/hvc1 ]; do sleep 0.1; done; stty raw -echo </dev/hvc1');
  const read = sh('head -n 1 /dev/hvc1');
  console_.stdin?.write('from the host\n');
  t.equal(await read, 'from the host');
  await sh('echo from the guest >/dev/hvc1');
  while (!shown.includes('from the guest')) await delay(20);
  t.match(shown, /from the guest/);
});
