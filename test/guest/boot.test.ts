/** Boots of Debian's kernels, by the numbers of vCPUs and by sizes of RAM. */
import { join } from 'node:path';
import t from 'tap';
import { VirtualMachine } from '../../src/index.ts';
import { GiB, MiB } from '../../src/memory/ram-layout.ts';
import { memtestImages } from '../support/fixtures/guest-inputs.ts';
import { bootGuest } from '../support/rigs/guest.ts';

const smbios = {
  manufacturer: 'Maker',
  product: 'Thing 3000',
  version: 'v1',
  serial: 'ds=nocloud;s=http://10.0.2.1:8000/',
  uuid: '00112233-4455-6677-8899-aabbccddeeff',
  sku: 'SKU-7',
  family: 'Things',
  assetTag: 'tag',
  oemStrings: ['io.systemd.credential:a=b'],
};

for (const kernel of ['6.12', '6.1'] as const) {
  t.test(`kernel ${kernel} boots to its agent`, async (t) => {
    await using vm = await bootGuest({ kernel, machine: { smbios } });
    const uname = await vm.exec(['uname', '-r']);
    t.match(uname.stdout.toString(), new RegExp(`^${kernel.replace('.', '\\.')}\\.`));
    const messages = (await vm.exec(['dmesg'])).stdout.toString();
    t.match(messages, /_OSC: OS now controls \[.*PME AER PCIeCapability LTR/);
    t.notMatch(messages, /_OSC.*(AE_|does not support|retains|failed)/);
    t.match(messages, /SMBIOS 3\.0\.0 present/);
    const strings: [string, string][] = [
      ['id/sys_vendor', smbios.manufacturer],
      ['id/product_name', smbios.product],
      ['id/product_version', smbios.version],
      ['id/product_serial', smbios.serial],
      ['id/product_uuid', smbios.uuid],
      ['id/product_sku', smbios.sku],
      ['id/product_family', smbios.family],
      ['id/chassis_asset_tag', smbios.assetTag],
    ];
    for (const [file, value] of strings) {
      const { stdout } = await vm.exec(['cat', `/sys/class/dmi/${file}`]);
      t.equal(stdout.toString().trim(), value, file);
    }
    const { stdout: table } = await vm.exec(['cat', '/sys/firmware/dmi/tables/DMI']);
    t.ok(table.includes(smbios.oemStrings[0] ?? ''), 'OEM string');
  });
}

for (const cpus of [2, 4]) {
  t.test(`${cpus} vCPUs are brought up`, async (t) => {
    await using vm = await bootGuest({ machine: { cpus } });
    t.equal((await vm.exec(['nproc'])).stdout.toString().trim(), String(cpus));
    const online = await vm.exec(['cat', '/sys/devices/system/cpu/online']);
    t.equal(online.stdout.toString().trim(), `0-${cpus - 1}`);
  });
}

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

t.test('a hidden CPU feature is not seen by the guest', async (t) => {
  await using vm = await bootGuest({ machine: { hideCpuFeatures: ['sse4_2', 'popcnt'] } });
  const flags = (await vm.exec(['cat', '/proc/cpuinfo'])).stdout.toString();
  t.match(flags, /\bsse4_1\b/);
  t.notMatch(flags, /\bsse4_2\b/);
  t.notMatch(flags, /\bpopcnt\b/);
});

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
