/** A boot with disk and network under trace: the file and the summary. */
import { readFileSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import t from 'tap';
import { KVM_EXIT_IO } from '../../src/abi/kvm-constants.ts';
import { MiB } from '../../src/memory/ram-layout.ts';
import {
  type TraceContents,
  type TraceEvent,
  traceFaults,
} from '../support/fixtures/trace-format.ts';
import { testFolder } from '../support/rigs/files.ts';
import { bootGuest, guestShell } from '../support/rigs/guest.ts';

const folder = testFolder(t);

t.test('a boot with disk and network', async (t) => {
  const disk = path.join(folder, 'disk.raw');
  const file = path.join(folder, 'trace.json');
  writeFileSync(disk, Buffer.alloc(MiB));
  const vm = await bootGuest({
    append: 'nodevmm.ip=10.0.9.2/24',
    machine: {
      disks: [{ path: disk, ring: { packed: true } }],
      nets: [{ hostAddress: '10.0.9.1/24' }],
      trace: { file },
    },
  });
  await guestShell(vm, 'dd if=/dev/vda of=/dev/null bs=64k count=4 iflag=direct 2>/dev/null');
  await guestShell(vm, 'ping -c 2 -W 20 10.0.9.1');
  const kernel = await guestShell(vm, 'dmesg | grep -o "sched offset of [0-9]*"');
  await guestShell(vm, 'echo now >/dev/kmsg');
  const stamp = await guestShell(vm, 'dmesg | grep " now$"');
  await vm.stop();
  const traceSummary = await vm.traceSummary();
  await vm[Symbol.asyncDispose]();

  const text = readFileSync(file, 'utf8');
  t.same(traceFaults(text), [], 'the file is of the format');
  const { traceEvents, otherData } = JSON.parse(text) as TraceContents;
  t.match(otherData, { dropped_records: 0 });
  const names = new Map(
    traceEvents
      .filter(({ name }) => name === 'process_name')
      .map(({ pid, args }) => [pid, String(args?.name)]),
  );
  const of = (device: string, name: string | RegExp): TraceEvent[] =>
    traceEvents.filter(
      (event) =>
        names.get(event.pid) === device &&
        (typeof name === 'string' ? event.name === name : name.test(event.name ?? '')),
    );

  for (const device of ['blk0', 'net0', 'console0', 'rng0']) {
    t.ok(of(device, 'kick to interrupt').length > 0, `${device}: kicks lead to interrupts`);
    t.ok(of(device, 'request').length > 0, `${device}: requests`);
    t.ok(of(device, /status .*DRIVER_OK/).length > 0, `${device}: DRIVER_OK is written`);
    t.equal(of(device, 'features accepted').length, 2, `${device}: two words of features`);
  }
  const read = of('blk0', 'request').map(({ args }) => args);
  t.ok(
    read.some((args) => args?.written === 64 * 1024 + 1),
    'a read of 64 KiB, and its status byte',
  );
  t.match(
    read.find((args) => args !== undefined)?.descriptors,
    [{ address: /^0x/, length: 16, direction: 'readable' }],
    'a request begins with its header',
  );
  t.ok(of('vCPUs', 'KVM_EXIT_IO').length > 0, 'exits');

  t.test('guest and host clocks', (t) => {
    const clocks = of('vCPUs', 'clocks');
    t.equal(clocks.length, 2, 'at power-on and power-off');
    const offset = Number(/[0-9]+/.exec(kernel)?.[0]) / 1e3;
    const seconds = Number(/\[ *([0-9.]+)\]/.exec(stamp)?.[1]);
    const [on, off] = clocks.map(({ args }) => Number(args?.guest_us));
    const guest = seconds * 1e6 + offset;
    t.ok(guest > Number(on) && guest < Number(off), 'a line of dmesg lies between them');
    t.end();
  });

  t.test('the summary', (t) => {
    const device = traceSummary?.devices.findIndex(({ name }) => name === 'blk0');
    const queue = traceSummary?.queues.find((one) => one.device === device);
    t.ok((queue?.kicks ?? 0) > 0 && (queue?.chains ?? 0) >= 4);
    t.ok((queue?.kickToServed.count ?? 0) > 0 && (queue?.kickToServed.p50 ?? 0) > 0);
    const exits = traceSummary?.exits.find(({ reason }) => reason === KVM_EXIT_IO);
    t.equal(exits?.count, of('vCPUs', 'KVM_EXIT_IO').length);
    t.end();
  });
});
