/** What machine the options of `nodevmm run` ask for. */
import { Command } from 'commander';
import t from 'tap';
import { parseDevice } from '../../../src/cli/run/device-options.ts';
import { runSpec, sharedFolders } from '../../../src/cli/run/run.ts';
import {
  addMachineOptions,
  type BootImage,
  bootImage,
  collectVariable,
  machineOptions,
  parseConsole,
  parseMemory,
  parseVirtioConsole,
  type RunFlags,
  wantsSummary,
} from '../../../src/cli/run/run-options.ts';
import { UsageError } from '../../../src/host/errors.ts';
import { DEVICE_TYPES, type MachineDeviceType } from '../../../src/machine/devices/device-types.ts';
import type { MachineOptions } from '../../../src/machine/options.ts';
import { resolveOptions } from '../../../src/machine/resolve-options.ts';

function flagsOf(...args: string[]): RunFlags {
  const command = addMachineOptions(new Command('run')).exitOverride();
  command.configureOutput({ writeErr: () => {} });
  return command.parse(args, { from: 'user' }).opts<RunFlags>();
}

const sharedOf = (...args: string[]): string[] =>
  sharedFolders(runSpec(flagsOf(...args), [], optionsOf(...args)));

const machineOf = (flags: RunFlags, image?: BootImage): MachineOptions => ({
  ...bootImage(flags, image),
  ...machineOptions(flags),
});

const optionsOf = (...args: string[]) => machineOf(flagsOf(...args), { kernel: '/k' });

t.test('memory sizes', (t) => {
  t.equal(parseMemory('512M'), 512 * 2 ** 20);
  t.equal(parseMemory('4G'), 4 * 2 ** 30);
  t.equal(parseMemory('4GiB'), 4 * 2 ** 30);
  t.equal(parseMemory('65536k'), 64 * 2 ** 20);
  t.equal(parseMemory('256'), 256 * 2 ** 20, 'a bare number is MiB');
  for (const text of ['', '0', '-1', '1.5G', '4X', '512 M', '0x100']) {
    t.throws(() => parseMemory(text), { message: /512M or 4G/ }, `refuses ${text}`);
  }
  t.end();
});

t.test('console targets', (t) => {
  t.strictSame(parseConsole('tty'), { to: 'tty' });
  t.strictSame(parseConsole('none'), { to: 'none' });
  t.strictSame(parseConsole('file:/tmp/a:b'), { to: 'file', path: '/tmp/a:b' });
  t.strictSame(parseConsole('file:a,append'), { to: 'file', path: 'a', append: true });
  t.strictSame(parseConsole('file:append'), { to: 'file', path: 'append' });
  t.strictSame(parseConsole('file:a,b'), { to: 'file', path: 'a,b' });
  for (const text of ['', 'file:', 'pty', 'tty,append', 'none,append'])
    t.throws(() => parseConsole(text), `refuses ${text}`);
  t.end();
});

t.test('without options: the guest image, an entropy device, nothing else', (t) => {
  const image = { kernel: '/k', initrd: '/i', commandLine: 'console=hvc0 quiet' };
  t.strictSame(machineOf(flagsOf(), image), {
    kernel: '/k',
    initrd: '/i',
    commandLine: 'console=hvc0 quiet',
    rng: {},
    console: {},
  });
  t.end();
});

t.test("--kernel takes the image's initrd and command line away", (t) => {
  const image = { kernel: '/k', initrd: '/i', commandLine: 'quiet' };
  const flags = flagsOf('--kernel', '/mine');
  const options = machineOf(flags);
  t.equal(options.kernel, '/mine');
  t.equal(options.initrd, undefined);
  t.match(options.commandLine, 'console=hvc0');
  t.equal(machineOf(flags, image).initrd, undefined);
  t.throws(() => machineOf(flagsOf()), UsageError);
  t.end();
});

t.test('--cmdline replaces, --append adds', (t) => {
  t.equal(optionsOf('--cmdline', 'a').commandLine, 'a');
  t.equal(optionsOf('--cmdline', 'a', '--append', 'b c').commandLine, 'a b c');
  t.match(optionsOf('--append', 'debug').commandLine, /console=hvc0.* debug$/);
  t.end();
});

t.test('--disk, several', (t) => {
  const { disks } = optionsOf(
    '--disk',
    'a.raw',
    '--disk',
    'with,,comma.raw,ro,queues=4,serial=S 1,direct,block-size=4096,engine=io_uring,packed,indirect=off,queue-size=64',
  );
  t.strictSame(disks, [
    { path: 'a.raw' },
    {
      path: 'with,comma.raw',
      readOnly: true,
      queues: 4,
      serial: 'S 1',
      direct: true,
      blockSize: 4096,
      engine: 'io_uring',
      ring: { packed: true, indirect: false, queueSize: 64 },
    },
  ]);
  t.strictSame(optionsOf('--disk', 'path=x=y.raw').disks, [{ path: 'x=y.raw' }]);
  t.strictSame(optionsOf('--disk', './x=y.raw').disks, [{ path: './x=y.raw' }]);
  t.end();
});

t.test('--net', (t) => {
  const { nets } = optionsOf(
    '--net',
    'auto',
    '--net',
    'tap=tap7,mac=52:54:00:00:00:01,queues=2,address=10.0.2.1/24,mtu=9000,offloads=off',
    '--net',
    'tap8',
  );
  t.strictSame(nets, [
    {},
    {
      tap: 'tap7',
      mac: '52:54:00:00:00:01',
      queues: 2,
      hostAddress: '10.0.2.1/24',
      mtu: 9000,
      offloads: false,
    },
    { tap: 'tap8' },
  ]);
  t.end();
});

t.test('--iommu, with and without keys', (t) => {
  t.equal(optionsOf().iommu, undefined);
  t.strictSame(optionsOf('--iommu').iommu, {});
  t.strictSame(optionsOf('--iommu', 'transport=mmio').iommu, { transport: 'mmio' });
  t.strictSame(optionsOf('--iommu', '--disk', 'a').iommu, {});
  t.throws(() => optionsOf('--iommu', 'on'), { code: 'E_OPTION' });
  t.end();
});

t.test('--vsock', (t) => {
  t.strictSame(optionsOf('--vsock', 'cid=4294967294,path=a,,b.sock').vsock, {
    cid: 4294967294,
    path: 'a,b.sock',
  });
  t.strictSame(optionsOf('--vsock', '3,path=s,packed', '--ring', 'all,in-order').vsock, {
    cid: 3,
    path: 's',
    ring: { packed: true, inOrder: true },
  });
  t.strictSame(optionsOf('--vsock', 'cid=3,vhost=on').vsock, { cid: 3, vhost: 'on' });
  t.strictSame(sharedOf('--vsock', 'cid=3,vhost=on'), []);
  t.strictSame(sharedOf('--vsock', 'cid=3,path=/a/s', '--disk', '/b/d'), ['/b', '/a']);
  t.strictSame(sharedOf('--trace', '/t/boot.json', '--trace=summary'), ['/t']);
  t.end();
});

t.test('serve fs', (t) => {
  const type = DEVICE_TYPES.find(({ name }) => name === 'fs');
  const parse = (text: string) =>
    parseDevice(type as MachineDeviceType, text, {
      option: 'serve fs',
      firstKey: 'source',
      defaults: ({ served }) => served ?? {},
    }).options;
  t.strictSame(parse('/srv,submounts,xattr=passthrough,mknod'), {
    tag: 'nodevmm',
    source: '/srv',
    submounts: true,
    xattr: 'passthrough',
    mknod: true,
    poll: 'adaptive',
  });
  t.throws(() => parse('/srv,xattr=all'), { code: 'E_OPTION' });
  t.end();
});

t.test('--fs', (t) => {
  const options = optionsOf(
    ...[
      '--fs',
      'tag=home,source=/h,queues=2,packed,submounts',
      '--fs',
      'work,source=w,readonly,xattr=passthrough,mknod',
    ],
    ...['--fs', 'tag=far,vhost-user=/s', '--ring', 'all,in-order'],
  );
  t.strictSame(options.fileSystems, [
    {
      tag: 'home',
      source: '/h',
      submounts: true,
      queues: 2,
      ring: { inOrder: true, packed: true },
    },
    {
      tag: 'work',
      source: 'w',
      readOnly: true,
      xattr: 'passthrough',
      mknod: true,
      ring: { inOrder: true },
    },
    { tag: 'far', vhostUser: { socket: '/s' }, ring: { inOrder: true } },
  ]);
  const flags = [
    ...['--fs', 'a,source=/a'],
    ...['--fs', 'b,source=/b,readonly'],
    ...['--fs', 'c,vhost-user=/c'],
  ];
  t.strictSame(sharedOf(...flags), ['/a'], 'the lab gets what is written to');
  t.end();
});

t.test('--trace and --check', (t) => {
  t.notOk('trace' in optionsOf());
  t.strictSame(optionsOf('--trace', 'f.json').trace, { file: 'f.json' });
  t.strictSame(optionsOf('--trace=summary').trace, {});
  t.strictSame(optionsOf('--trace=summary', '--trace', 'f').trace, { file: 'f' });
  t.equal(wantsSummary(flagsOf('--trace=summary', '--trace', 'f')), true);
  t.equal(wantsSummary(flagsOf('--trace', 'f')), false);
  t.throws(() => optionsOf('--trace', 'a', '--trace', 'b'), UsageError);
  t.equal(optionsOf('--check').check, true);
  t.notOk('check' in optionsOf());
  t.end();
});

t.test('--ring: all devices, and one of them over it', (t) => {
  const options = optionsOf(
    ...['--ring', 'all,packed', '--ring', 'rng,event-idx=off', '--disk', 'd,packed=off'],
  );
  t.strictSame(options.console, { ring: { packed: true } });
  t.strictSame(options.rng, { ring: { packed: true, eventIdx: false } });
  t.strictSame(options.disks, [{ path: 'd', ring: { packed: false } }]);
  const { nets } = optionsOf('--ring', 'all,packed', '--net', 'a,model=e1000', '--net', 'b');
  t.strictSame(nets, [
    { tap: 'a', model: 'e1000' },
    { tap: 'b', ring: { packed: true } },
  ]);
  t.end();
});

t.test('transport: of the machine, and of each device', (t) => {
  const options = optionsOf(
    ...['--transport', 'mmio', '--disk', 'd,transport=pci', '--net', 'a,transport=mmio'],
    ...['--vsock', 'cid=3,path=s,transport=mmio', '--device', 'x.ts,transport=mmio,step=2'],
    ...['--rng', 'transport=mmio,packed', '--console', 'file:/a,b,transport=mmio'],
  );
  t.equal(options.transport, 'mmio');
  t.strictSame(options.disks, [{ path: 'd', transport: 'pci' }]);
  t.strictSame(options.nets, [{ tap: 'a', transport: 'mmio' }]);
  t.strictSame(options.vsock, { cid: 3, path: 's', transport: 'mmio' });
  t.strictSame(options.devices, [{ module: 'x.ts', transport: 'mmio', options: { step: '2' } }]);
  t.strictSame(options.rng, { transport: 'mmio', ring: { packed: true } });
  t.strictSame(options.console, { transport: 'mmio' });
  t.strictSame(optionsOf('--rng', 'pci').rng, { transport: 'pci' });
  t.match(flagsOf('--console', 'file:/a,b,transport=pci').console, { to: 'file', path: '/a,b' });
  t.throws(() => parseVirtioConsole('tty,transport=ccw'));
  const appended = { to: 'file', path: '/a,b', append: true };
  t.strictSame(parseVirtioConsole('file:/a,b,append'), appended);
  for (const text of ['file:/a,b,append,transport=pci', 'file:/a,b,transport=pci,append']) {
    t.strictSame(parseVirtioConsole(text), { ...appended, transport: 'pci' });
  }
  t.end();
});

t.test('--device, watched or not', (t) => {
  const { devices } = optionsOf('--device', 'a/b.ts,step=2', '--device', 'c.ts,thread=worker');
  t.match(devices, [
    { module: 'a/b.ts', options: { step: '2' } },
    { module: 'c.ts', thread: 'worker', options: {} },
  ]);
  t.equal('watch' in (devices?.[0] ?? {}), false);
  t.match(optionsOf('--device', 'a/b.ts', '--watch').devices, [{ module: 'a/b.ts', watch: true }]);
  t.strictSame(sharedOf('--device', '/a/b.ts'), []);
  t.strictSame(sharedOf('--device', '/a/b.ts', '--watch'), ['/a'], 'the lab sees it');
  t.end();
});

t.test('--smbios, several', (t) => {
  const { smbios } = optionsOf(
    ...[
      '--smbios',
      'serial=ds=nocloud;s=http://h:1/,,h=a,uuid=00112233-4455-6677-8899-aabbccddeeff',
    ],
    ...['--smbios', 'product=P,asset-tag=T,oem-string=io.systemd.credential:a=b'],
    ...['--smbios', 'oem-string=second,manufacturer=M,version=V,sku=S,family=F'],
  );
  t.strictSame(smbios, {
    serial: 'ds=nocloud;s=http://h:1/,h=a',
    uuid: '00112233-4455-6677-8899-aabbccddeeff',
    product: 'P',
    assetTag: 'T',
    manufacturer: 'M',
    version: 'V',
    sku: 'S',
    family: 'F',
    oemStrings: ['io.systemd.credential:a=b', 'second'],
  });
  t.equal(optionsOf().smbios, undefined);
  for (const [args, message] of [
    [['--smbios', 'mine'], /has no KEY=VALUE; it takes manufacturer= /],
    [['--smbios', 'vendor=a'], /does not know vendor/],
    [['--smbios', 'serial='], /empty part/],
    [['--smbios', 'serial=a', '--smbios', 'serial=b'], /names serial again/],
  ] as const) {
    t.throws(() => optionsOf(...args), { name: 'UsageError', message });
  }
  t.end();
});

t.test('the rest', (t) => {
  const options = optionsOf(
    ...['--memory', '1G', '--cpus', '4', '--no-rng', '--hugepages', '--on-reboot', 'exit'],
    ...['--boot-protocol', 'linux64', '--notify', 'memory'],
    ...['--hide-cpu-feature', 'avx,avx2', '--hide-cpu-feature', 'smep'],
  );
  t.match(options, { memory: 2 ** 30, cpus: 4, rng: false, hugePages: true, onReboot: 'exit' });
  t.match(options, { bootProtocol: 'linux64', notify: 'memory' });
  t.strictSame(options.hideCpuFeatures, ['avx', 'avx2', 'smep']);
  t.equal(flagsOf().lab, undefined, 'the lab is neither wanted nor refused');
  t.equal(flagsOf('--lab').lab, true);
  t.equal(flagsOf('--no-lab').lab, false);
  t.end();
});

const REFUSED: readonly (readonly [string[], RegExp])[] = [
  [['--disk', 'a,readonly'], /--disk a,readonly does not know readonly; it takes path, ro, queues/],
  [['--disk', 'a,queues=0'], /has queues=0; queues must be 1 to 16/],
  [['--disk', 'a,ro=yes'], /ro must be on or off/],
  [['--disk', 'a,engine=aio'], /engine must be sync or io_uring/],
  [['--disk', 'a,ro,ro'], /names ro twice/],
  [['--disk', 'ro='], /empty part/],
  [['--disk', ''], /empty part/],
  [['--disk', 'serial=5'], /has no path=FILE/],
  [['--net', 'tap0,foo=1'], /does not know foo/],
  [['--fs', 'source=/a'], /--fs source=\/a has no tag=NAME/],
  [['--fs', 'home'], /has no source=FOLDER/],
  [['--fs', 'home,source=a,ro'], /does not know ro; it takes tag, source, readonly/],
  [['--watch'], /--watch goes with --device/],
  [['--vsock', 'path=s'], /--vsock path=s has no cid=N/],
  [['--vsock', 'cid=3,vhost=yes'], /must be on, off or auto/],
  [['--vsock', 'cid=x,path=s'], /cid=x; cid must be 3 to 4294967294/],
  [['--vsock', 'cid=10000000000000000000000,path=s'], /cid must be 3 to/],
  [['--vsock', 'cid=3,path=s,port=1'], /does not know port/],
  [['--net', 'tap0,model=rtl8139'], /model must be virtio or e1000/],
  [['--ring', 'blk,packed'], /device must be all, console or rng/],
  [['--disk', 'd,transport=ccw'], /transport must be pci or mmio/],
  [['--rng', 'speed=1'], /does not know speed/],
  [['--ring', 'all'], /--ring all names no feature; it takes packed indirect=off/],
];
for (const [args, message] of REFUSED) {
  t.throws(() => optionsOf(...args), { name: 'UsageError', message }, `refuses ${args.join(' ')}`);
}

t.test('devices in other processes: each option, with its keys', (t) => {
  const options = optionsOf(
    ...['--disk', 'disk.raw', '--disk'],
    'vhost-user=/s/blk,queues=2,timeout=500,peer-uid=1000,packed',
    ...['--net', 'auto', '--net', 'vhost-user=/s/net,mac=52:54:00:12:34:56,server'],
    ...['--fs', 'tag=home,vhost-user=/s/fs,transport=mmio', '--device', './own.ts'],
    ...['--device', 'vhost-user,type=4,socket=/s/rng,config-size=8'],
  );
  t.strictSame(options.disks, [
    { path: 'disk.raw' },
    {
      vhostUser: { socket: '/s/blk', timeoutMs: 500, peerUid: 1000 },
      queues: 2,
      ring: { packed: true },
    },
  ]);
  t.strictSame(options.nets, [
    {},
    { vhostUser: { socket: '/s/net', server: true }, mac: '52:54:00:12:34:56' },
  ]);
  t.strictSame(options.fileSystems, [
    { vhostUser: { socket: '/s/fs' }, tag: 'home', transport: 'mmio' },
  ]);
  t.strictSame(options.devices, [
    { module: './own.ts', options: {} },
    { vhostUser: { socket: '/s/rng' }, deviceId: 4, configSize: 8 },
  ]);
  t.strictSame(optionsOf('--device', 'vdpa=/dev/vhost-vdpa-0,packed').devices, [
    { vdpa: '/dev/vhost-vdpa-0', ring: { packed: true } },
  ]);
  t.strictSame(optionsOf('--net', 'vdpa=auto,mgmtdev=pci/0000:01:00.0,name=a').nets, [
    { vdpa: 'auto', mgmtdev: 'pci/0000:01:00.0', name: 'a' },
  ]);
  t.strictSame(optionsOf('--device', 'vhost-user,type=blk,socket=/s,queues=2').disks, [
    { vhostUser: { socket: '/s' }, queues: 2 },
  ]);
  t.end();
});

const REFUSED_BACKENDS: readonly (readonly [string[], RegExp])[] = [
  [['--fs', 'vhost-user=/s'], /has no tag=NAME/],
  [['--device', 'vhost-user,type=4'], /has no socket=SOCKET/],
  [['--device', 'vhost-user,socket=/s'], /has no type=ID/],
  [['--device', 'vhost-user,type=disk,socket=/s'], /type must be a device ID from 1 to 63/],
  [['--disk', 'vhost-user=/s,ro'], /does not know ro/],
  [['--disk', 'vdpa=auto,mgmtdev=m,name=../x'], /name must be 1 to 64 letters, digits/],
  [['--net', 'vhost-user=/s,queues=0'], /queues=0; queues must be 1 to 64/],
];
for (const [args, message] of REFUSED_BACKENDS) {
  t.throws(() => optionsOf(...args), { code: 'E_OPTION', message }, `refuses ${args.join(' ')}`);
}

t.test('the lab gets a run as data, with the image that was made outside', (t) => {
  const image = { kernel: '/k', initrd: '/i', commandLine: 'quiet' };
  const specOf = (args: string[], command: string[], built?: typeof image): unknown => {
    const flags = flagsOf(...args);
    return JSON.parse(JSON.stringify(runSpec(flags, command, machineOf(flags, built))));
  };
  const machine = { kernel: '/k', initrd: '/i', commandLine: 'quiet', rng: {}, console: {} };
  const serial = { to: 'none' };
  t.strictSame(specOf(['--lab', '--cpus', '2'], ['ls', '--lab'], image), {
    machine: { ...machine, cpus: 2 },
    plan: { console: { to: 'none' }, serial, command: ['ls', '--lab'] },
    summary: false,
  });
  t.match(specOf(['--kernel=x'], []), {
    machine: { kernel: 'x' },
    plan: { console: { to: 'tty' } },
  });
  t.match(specOf(['--initrd', 'mine'], [], image), { machine: { kernel: '/k', initrd: 'mine' } });
  t.strictSame(
    specOf(['--module', 'a', '--module=b', '--name', 'n', '--trace=summary'], [], image),
    {
      machine: { ...machine, trace: {} },
      plan: { console: { to: 'tty' }, serial },
      name: 'n',
      summary: true,
    },
    'modules are in the image',
  );
  process.env.NODEVMM_TEST_VARIABLE = 'x y';
  t.match(
    specOf(['--env', 'NODEVMM_TEST_VARIABLE', '--env=B=2'], ['env', '--env', 'C'], image),
    { plan: { env: { NODEVMM_TEST_VARIABLE: 'x y', B: '2' }, command: ['env', '--env', 'C'] } },
    'variables have the values that they have outside',
  );
  t.end();
});

t.test('what is given as JSON is parsed to the same machine', (t) => {
  const machine = optionsOf(
    ...['--disk', 'd,ro', '--fs', 't,source=/s', '--device', 'x.ts,a=1', '--check'],
  );
  t.same(resolveOptions(JSON.parse(JSON.stringify(machine))), resolveOptions(machine));
  t.end();
});

t.test('variables are given by value, or by the value that they have here', (t) => {
  process.env.NODEVMM_TEST_HERE = 'here=1';
  t.teardown(() => delete process.env.NODEVMM_TEST_HERE);
  const all = ['A=1', 'NODEVMM_TEST_HERE', 'NODEVMM_TEST_NONE', 'B=', 'C=x=y\nz', 'A=2'];
  const env = all.reduce<Readonly<Record<string, string>> | undefined>(
    (before, text) => collectVariable(text, before),
    undefined,
  );
  t.strictSame(env, { A: '2', NODEVMM_TEST_HERE: 'here=1', B: '', C: 'x=y\nz' });
  t.strictSame(collectVariable('NODEVMM_TEST_NONE'), {}, 'what is not set here is not set there');
  for (const bad of ['', '=', '=x'])
    t.throws(() => collectVariable(bad), { message: /NAME=VALUE/ });
  t.end();
});
