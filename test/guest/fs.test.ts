/**
 * Shared folders with Linux's driver, three in one guest: one served by this process, one that is
 * read-only on virtio-mmio, and one of `nodevmm serve fs` over vhost-user.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import {
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { MiB } from '../../src/memory/ram-layout.ts';
import { sha256 } from '../support/rigs/files.ts';
import { bootGuest, guestShell } from '../support/rigs/guest.ts';

const PROGRAM = fileURLToPath(new URL('../../bundle/bin/main.js', import.meta.url));
const ENTRIES = 60;

const folder = mkdtempSync(path.join(tmpdir(), 'nodevmm-fs-'));
const children: ChildProcess[] = [];
t.teardown(async () => {
  for (const child of children) {
    const exited = child.exitCode ?? child.signalCode ?? once(child, 'exit');
    child.kill('SIGTERM');
    await exited;
  }
  rmSync(folder, { recursive: true });
});
const at = (...names: string[]): string => path.join(folder, ...names);

const random = randomBytes(MiB + 123);
for (const name of ['own', 'fixed', 'served']) {
  mkdirSync(at(name, 'folder'), { recursive: true });
  writeFileSync(at(name, 'from-host'), random);
  symlinkSync('from-host', at(name, 'link'));
}
// Where a way out would lead.
writeFileSync(at('secret'), 'secret');
symlinkSync('../secret', at('own', 'way-out'));
mkdirSync(at('own', 'many'));
for (let i = 0; i < ENTRIES; i++) {
  const name = `entry number ${i}`;
  writeFileSync(at('own', 'many', name), name);
}

const complaints: string[] = [];
const socket = at('fs.sock');

async function serve(): Promise<ChildProcess> {
  rmSync(socket, { force: true });
  const argv = [PROGRAM, 'serve', 'fs', `${at('served')},queues=2`, '--socket', socket];
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'ignore', 'pipe'] });
  children.push(child);
  child.stderr?.on('data', (chunk: Buffer) => complaints.push(String(chunk)));
  while (!existsSync(socket) && child.exitCode === null) await delay(20);
  return child;
}

const backend = await serve();
const vm = await bootGuest({
  image: 'tools',
  machine: {
    fileSystems: [
      { tag: 'own', source: at('own'), queues: 2 },
      { tag: 'fixed', source: at('fixed'), readOnly: true, transport: 'mmio' },
      { vhostUser: { socket }, tag: 'served' },
    ],
  },
});
t.teardown(() => vm[Symbol.asyncDispose]());
vm.on('log', (line) => complaints.push(line));
const sh = (script: string): Promise<string> => guestShell(vm, script);

await sh(`modprobe virtiofs || true
  for tag in own fixed served; do mkdir -p /$tag; mount -t virtiofs $tag /$tag; done`);

for (const tag of ['own', 'served']) {
  t.test(`${tag}: data both ways, names, attributes`, async (t) => {
    t.equal((await sh(`sha256sum < /${tag}/from-host`)).slice(0, 64), sha256(random));
    t.equal((await sh(`sha256sum < /${tag}/link`)).slice(0, 64), sha256(random));
    await sh(`cd /${tag}
      cp from-host folder/copy
      ln -s copy folder/symlink
      ln folder/copy folder/hard
      mkdir folder/sub; mv folder/hard folder/sub/moved
      chmod 4751 folder/copy
      chown 12:34 folder/sub/moved
      touch -d @1234567890 folder/sub
      mkfifo folder/fifo
      : > gone; rm gone
      if rmdir folder/sub 2>/dev/null; then exit 1; fi
      df . | grep -q "^${tag} "`);
    t.equal(sha256(readFileSync(at(tag, 'folder', 'copy'))), sha256(random));
    t.equal(readlinkSync(at(tag, 'folder', 'symlink')), 'copy');
    const moved = statSync(at(tag, 'folder', 'sub', 'moved'));
    t.same([moved.nlink, moved.uid, moved.gid], [2, 12, 34]);
    t.equal(moved.mode & 0o7777, 0o751, 'chown takes set-user-ID away');
    t.equal(statSync(at(tag, 'folder', 'sub')).mtimeMs, 1_234_567_890_000);
    t.ok(lstatSync(at(tag, 'folder', 'fifo')).isFIFO());
    t.notOk(readdirSync(at(tag)).includes('gone'));
  });
}

t.test('a tree is copied from one folder to another', async (t) => {
  t.equal(await sh('ls /own/many | wc -l'), `${ENTRIES}`);
  await sh('cp -a /own/many /served/; tar cf - -C /own many | tar xf - -C /own/folder');
  for (const copy of [at('served', 'many'), at('own', 'folder', 'many')]) {
    const names = readdirSync(copy);
    t.equal(names.length, ENTRIES);
    const right = names.filter((name) => readFileSync(path.join(copy, name), 'utf8') === name);
    t.equal(right.length, ENTRIES, 'each with its own content');
  }
  await sh('rm -r /own/folder/many');
  t.notOk(existsSync(at('own', 'folder', 'many')));
});

t.test('fio verifies what it wrote, cached and direct', async (t) => {
  for (const [tag, direct] of [
    ['own', 0],
    ['served', 1],
  ] as const) {
    const report = await sh(`fio --output-format=terse --name=v --directory=/${tag} --size=512k \
      --direct=${direct} --ioengine=libaio --iodepth=8 --rw=randrw --bsrange=512-64k \
      --verify=crc32c --verify_fatal=1 --randseed=7`);
    t.same(report.split(';').slice(2, 5), ['v', '0', '0'], tag);
  }
});

t.test('no way leads out', async (t) => {
  t.equal(await sh('cat /own/way-out 2>/dev/null || echo nothing'), 'nothing');
  t.equal(await sh('cd /own; ls ../secret 2>/dev/null || echo nothing'), 'nothing');
});

t.test('a read-only folder is read, and refuses every change', async (t) => {
  t.equal((await sh('sha256sum < /fixed/link')).slice(0, 64), sha256(random));
  const answer = await sh(`cd /fixed
    for change in "touch new" "mkdir new" "rm from-host" "mv link other" "chmod 777 from-host" \
      "truncate -s 1 from-host" "ln from-host hard"; do
      if $change 2>/tmp/errors; then echo "$change succeeded"; fi
      grep -q 'Read-only file system' /tmp/errors || cat /tmp/errors
    done`);
  t.equal(answer, '');
  t.same(readdirSync(at('fixed')).sort(), ['folder', 'from-host', 'link']);
});

t.test('open files outlive a pause; names also a backend that is another one', async (t) => {
  const reading = sh(`exec 3</own/from-host 4</served/from-host
    dd bs=1000 count=1 <&3 >/tmp/own 2>/dev/null; dd bs=1000 count=1 <&4 >/tmp/served 2>/dev/null
    echo >/own/waits
    until [ -e /own/goes-on ]; do sleep 0.1; done
    cat <&3 >>/tmp/own; cat <&4 >>/tmp/served
    cat /tmp/own /tmp/served | sha256sum`);
  const failed = reading.then((output) => Promise.reject(new Error(`it ended: ${output}`)));
  const waits = async (): Promise<void> => {
    while (!existsSync(at('own', 'waits'))) await delay(20);
  };
  await Promise.race([waits(), failed]);
  failed.catch(() => {});
  await vm.pause();
  await vm.resume();
  writeFileSync(at('own', 'goes-on'), '');
  t.equal((await reading).slice(0, 64), sha256(Buffer.concat([random, random])));
  const exited = once(backend, 'exit');
  backend.kill('SIGKILL');
  await exited;
  await serve();
  t.equal((await sh('cd /; sha256sum < /served/from-host')).slice(0, 64), sha256(random));
  t.equal(await sh('ls /served/many | wc -l'), `${ENTRIES}`);
});

t.test('mounts and drivers come and go', async (t) => {
  for (const tag of ['own', 'fixed']) {
    t.equal(
      await sh(`umount /${tag}; mount -t virtiofs ${tag} /${tag}; readlink /${tag}/link`),
      'from-host',
    );
  }
  await sh(`umount /own /fixed /served
    cd /sys/bus/virtio/drivers/virtiofs
    devices=$(ls -d virtio*)
    for device in $devices; do echo $device >unbind; echo $device >bind; done
    for tag in own fixed served; do mount -t virtiofs $tag /$tag; done`);
  for (const tag of ['own', 'fixed', 'served']) {
    t.equal((await sh(`sha256sum < /${tag}/from-host`)).slice(0, 64), sha256(random), tag);
  }
  await sh('umount /own /fixed /served');
  const unexpected = complaints.filter((line) => !/listening on|backend|disconnected/.test(line));
  t.same(unexpected, []);
});
