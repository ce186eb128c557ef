/** Boots of Debian's kernels, and what they find in the firmware's tables. */
import t from 'tap';
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

t.test('vCPUs are brought up', async (t) => {
  await using vm = await bootGuest({ machine: { cpus: 2 } });
  t.equal((await vm.exec(['nproc'])).stdout.toString().trim(), '2');
  const online = await vm.exec(['cat', '/sys/devices/system/cpu/online']);
  t.equal(online.stdout.toString().trim(), '0-1');
});

t.test('a hidden CPU feature is not seen by the guest', async (t) => {
  await using vm = await bootGuest({ machine: { hideCpuFeatures: ['sse4_2', 'popcnt'] } });
  const flags = (await vm.exec(['cat', '/proc/cpuinfo'])).stdout.toString();
  t.match(flags, /\bsse4_1\b/);
  t.notMatch(flags, /\bsse4_2\b/);
  t.notMatch(flags, /\bpopcnt\b/);
});
