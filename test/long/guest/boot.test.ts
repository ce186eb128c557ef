/** Boots that take long: many vCPUs, sizes of RAM, kernels that unpack themselves, memtest86+. */
import { join } from 'node:path';
import t from 'tap';
import { VirtualMachine } from '../../../src/index.ts';
import { GiB, MiB } from '../../../src/memory/ram-layout.ts';
import { memtestImages } from '../../support/fixtures/guest-inputs.ts';
import { bootGuest } from '../../support/rigs/guest.ts';

t.test('four vCPUs are brought up', async (t) => {
  await using vm = await bootGuest({ machine: { cpus: 4 } });
  t.equal((await vm.exec(['nproc'])).stdout.toString().trim(), '4');
  const online = await vm.exec(['cat', '/sys/devices/system/cpu/online']);
  t.equal(online.stdout.toString().trim(), '0-3');
});

for (const [memory, name] of [
  [128 * MiB, '128 MiB'],
  [5 * GiB, '5 GiB, across the hole below 4 GiB'],
] as const) {
  t.test(`RAM of ${name}`, async (t) => {
    await using vm = await bootGuest({ machine: { memory } });
    const info = (await vm.exec(['cat', '/proc/meminfo'])).stdout.toString();
    const total = Number(/MemTotal:\s+(\d+) kB/.exec(info)?.[1]) * 1024;
    t.ok(total > memory * 0.85 - 64 * MiB, `${total} bytes are seen`);
    t.ok(total < memory);
    // Half of the large one, so that pages above 4 GiB are touched; the small one has less to spare.
    const size = memory > GiB ? Math.floor((memory * 0.5) / MiB) : 16;
    const written = await vm.exec([
      'sh',
      '-c',
      `mount -t tmpfs -o size=90% none /mnt && dd if=/dev/zero of=/mnt/f bs=1M count=${size} && wc -c < /mnt/f`,
    ]);
    t.equal(written.stdout.toString().trim(), String(size * MiB), written.stderr.toString());
  });
}

for (const bootProtocol of ['linux64', 'linux32'] as const) {
  t.test(`a bzImage that unpacks itself runs at a random address: ${bootProtocol}`, async (t) => {
    await using vm = await bootGuest({ machine: { bootProtocol } });
    const symbols = await vm.exec(['grep', '-m1', ' _stext$', '/proc/kallsyms']);
    t.match(symbols.stdout.toString(), /^[0-9a-f]{16} T _stext/);
    t.notMatch(symbols.stdout.toString(), /^ffffffff81000000/);
  });
}

t.test('memtest86+ tests the memory of its guest, by either entry', async (t) => {
  using images = await memtestImages();
  for (const name of ['memtest86+x64.bin', 'memtest86+ia32.bin']) {
    await using vm = await VirtualMachine.create({
      kernel: join(images.folder, name),
      commandLine: 'console=ttyS0,115200',
      memory: 64 * MiB,
    });
    let screen = '';
    const testing = new Promise<void>((resolve) => {
      vm.serial.on('data', (chunk) => {
        screen += String(chunk);
        if (/Status: Testing/.test(screen)) resolve();
      });
    });
    await vm.start();
    await Promise.race([testing, vm.wait()]);
    t.match(screen, /Status: Testing/, name);
  }
});
