import { totalmem } from 'node:os';
import t from 'tap';
import type { MachineOptions } from '../../../src/machine/options.ts';
import {
  AGENT_PORT,
  DEFAULT_COMMAND_LINE,
  resolveOptions,
} from '../../../src/machine/resolve-options.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import type { NetOptions } from '../../../src/virtio/device/net/net-type.ts';
import type { RingOptions } from '../../../src/virtio/device-type.ts';

const kernel = '/boot/vmlinuz';
const wrong = (options: Partial<MachineOptions>) => () => resolveOptions({ kernel, ...options });

t.test('what was left out is filled in', async (t) => {
  const resolved = resolveOptions({ kernel });
  t.match(resolved, {
    kernel,
    commandLine: DEFAULT_COMMAND_LINE,
    memory: 512 * MiB,
    hugePages: false,
    cpus: 1,
    hideCpuFeatures: [],
    devices: [{ context: { name: 'rng0' }, options: {}, ring: {}, transport: 'pci', vhost: 'off' }],
    console: {},
    transport: 'pci',
    agent: AGENT_PORT,
    onReboot: 'restart',
    notify: 'io',
  });
  t.equal('initrd' in resolved, false);
  t.equal(Object.isFrozen(resolved), true);
});

t.test('what was given is kept', async (t) => {
  const ring = { packed: true };
  const resolved = resolveOptions({
    kernel,
    initrd: '/initrd',
    commandLine: 'quiet',
    memory: 64 * MiB,
    hugePages: true,
    cpus: 4,
    hideCpuFeatures: ['avx2'],
    disks: [{ path: '/disk' }],
    nets: [{ tap: 'tap0' }],
    rng: { ring },
    console: { ring },
    agent: null,
    onReboot: 'exit',
    notify: 'memory',
    smbios: { serial: 'S' },
  });
  t.match(resolved, {
    initrd: '/initrd',
    commandLine: 'quiet',
    memory: 64 * MiB,
    hugePages: true,
    cpus: 4,
    hideCpuFeatures: ['avx2'],
    devices: [
      { context: { name: 'blk0' }, options: { path: '/disk' }, ring: {} },
      { context: { name: 'net0' }, options: { tap: 'tap0' }, ring: {} },
      { context: { name: 'rng0' }, options: {}, ring },
    ],
    console: { ring },
    onReboot: 'exit',
    notify: 'memory',
    smbios: { serial: 'S' },
  });
  t.equal(resolved.agent, undefined);
  t.same(resolveOptions({ kernel, rng: false }).devices, []);
});

for (const memory of [1.5 * MiB, 100 * MiB + 1, Number.NaN, Number.POSITIVE_INFINITY]) {
  t.test(`memory of ${memory} bytes is no whole MiB`, async (t) => {
    t.throws(wrong({ memory }), { name: 'UsageError', code: 'E_MEMORY', message: /whole MiB/ });
  });
}

for (const memory of [0, -64 * MiB, 31 * MiB]) {
  t.test(`memory of ${memory} bytes is too little`, async (t) => {
    t.throws(wrong({ memory }), { code: 'E_MEMORY', message: /too little.*minimum is 32/ });
  });
}

t.test('SMBIOS strings that a table cannot hold', async (t) => {
  t.throws(wrong({ smbios: { serial: 'a\0b' } }), { code: 'E_SMBIOS', message: /serial/ });
  t.throws(wrong({ smbios: { uuid: '1' } }), { code: 'E_SMBIOS', message: /uuid/ });
});

for (const cid of [0, 1, 2, -3, 3.5, 0xffff_ffff, 2 ** 32 + 3, Number.NaN]) {
  t.test(`the context ID ${cid} is refused`, async (t) => {
    t.throws(wrong({ vsock: { cid, path: 's' } }), { code: 'E_CID', message: /3 to 4294967294/ });
  });
}

t.test('the lowest and the highest context ID are taken', async (t) => {
  for (const cid of [3, 0xffff_fffe]) {
    const vsock = { cid, path: 's', ring: { packed: true } };
    const [device] = resolveOptions({ kernel, rng: false, vsock }).devices;
    t.match(device, { options: { cid, path: 's' }, ring: { packed: true }, vhost: 'off' });
  }
  const [device] = resolveOptions({ kernel, rng: false, vsock: { cid: 3, vhost: 'on' } }).devices;
  t.match(device, { options: { cid: 3 }, vhost: 'on' });
  for (const vhost of [undefined, 'off', 'auto'] as const) {
    const vsock = vhost === undefined ? { cid: 3 } : { cid: 3, vhost };
    t.throws(wrong({ vsock }), { code: 'E_VSOCK', message: /set its path, or use vhost=on/ });
  }
  t.equal(resolveOptions({ kernel }).devices.length, 1, 'none without the option');
  t.throws(wrong({ vsock: { cid: 3, path: 's', ring: { queueSize: 3 } } }), /power of two/);
});

t.test('memory that the host does not have is refused', async (t) => {
  const memory = (Math.ceil(totalmem() / MiB) + 1) * MiB;
  t.throws(wrong({ memory }), { code: 'E_MEMORY', message: /more than.*this host has/ });
});

for (const cpus of [0, -1, 1.5, 17, Number.NaN]) {
  t.test(`${cpus} vCPUs are refused`, async (t) => {
    t.throws(wrong({ cpus }), { code: 'E_CPUS', message: /1 to 16/ });
  });
}

const disks = (count: number) => Array.from({ length: count }, () => ({ path: '/disk' }));

t.test('more devices than the bus has slots are refused, and how many', async (t) => {
  t.throws(wrong({ disks: disks(30) }), {
    code: 'E_DEVICES',
    message: /leave out 1, or put them on transport=mmio$/,
  });
  t.doesNotThrow(wrong({ disks: disks(29) }));
  t.doesNotThrow(wrong({ disks: disks(30), rng: false }));
});

t.test('virtio-mmio has room for 32 devices of its own', async (t) => {
  const onMmio = (count: number) =>
    disks(count).map((disk) => ({ ...disk, transport: 'mmio' as const }));
  t.doesNotThrow(wrong({ disks: [...disks(29), ...onMmio(32)] }));
  t.throws(wrong({ disks: onMmio(33) }), {
    code: 'E_DEVICES',
    message: /33 devices are too many for virtio-mmio; leave out 1, or put them on transport=pci$/,
  });
  const nets = [{ model: 'e1000' as const }];
  t.doesNotThrow(wrong({ transport: 'mmio', disks: disks(30), nets }), 'a card is on the bus');
});

t.test('a transport that there is not', async (t) => {
  const transport = 'ccw' as 'pci';
  for (const options of [{ transport }, { disks: [{ path: '/disk', transport }] }]) {
    t.throws(wrong(options), {
      code: 'E_TRANSPORT',
      message: /transport must be pci or mmio, not "ccw"$/,
    });
  }
  t.throws(wrong({ nets: [{ model: 'e1000', transport: 'mmio' }] }), {
    code: 'E_NET_MODEL',
    message: /unknown option transport of nets\[0\] \(e1000 backend\); it takes model, tap, /,
  });
});

const places: Readonly<Record<string, (ring: RingOptions) => Partial<MachineOptions>>> = {
  console: (ring) => ({ console: { ring } }),
  disk: (ring) => ({ disks: [{ path: '/disk' }, { path: '/disk', ring }] }),
  net: (ring) => ({ nets: [{ ring }] }),
  rng: (ring) => ({ rng: { ring } }),
};
for (const [name, place] of Object.entries(places)) {
  t.test(`an impossible queue size of the ${name} is refused`, async (t) => {
    for (const queueSize of [0, 1, 3, 100, 65536, 2.5]) {
      t.throws(wrong(place({ queueSize })), { code: 'E_QUEUE_SIZE', message: /power of two/ });
    }
    t.doesNotThrow(wrong(place({ queueSize: 2 })));
    t.doesNotThrow(wrong(place({ queueSize: 32768 })));
  });
}

t.test('an emulated card has a tap, and nothing that is of virtio', async (t) => {
  const model = 'e1000';
  t.doesNotThrow(wrong({ nets: [{ model, tap: 't', hostAddress: '10.0.2.1/24', mtu: 9000 }] }));
  t.doesNotThrow(wrong({ nets: [{ model: 'virtio', queues: 2 }] }));
  const foreign = [{ queues: 1 }, { offloads: false }, { ring: {} }, { vhost: 'on' as const }];
  for (const options of foreign) {
    const name = Object.keys(options)[0] ?? '';
    const error = { code: 'E_NET_MODEL', message: new RegExp(`unknown option ${name} of .*e1000`) };
    t.throws(wrong({ nets: [{ model, ...options }] }), error);
  }
  const other = { model: 'rtl8139' } as unknown as NetOptions;
  t.throws(wrong({ nets: [other] }), {
    code: 'E_NET_MODEL',
    message: /nets\[0\].model must be virtio or e1000/,
  });
});

t.test('a device in another process', async (t) => {
  const vhostUser = { socket: '/s' };
  const { devices } = resolveOptions({
    kernel,
    rng: false,
    disks: [{ path: '/disk' }, { vhostUser }],
    fileSystems: [{ vhostUser, tag: 'home' }],
    devices: [4, 5, 4].map((deviceId) => ({ vhostUser, deviceId, configSize: 256, queues: 64 })),
  });
  t.same(
    devices.map(({ context }) => context.name),
    ['blk0', 'blk1', 'fs0', 'virtio4-0', 'virtio5-0', 'virtio4-1'],
  );
  const generic = (options: object) => ({ devices: [{ vhostUser, ...options }] });
  const refused: readonly (readonly [object, RegExp])[] = [
    [
      generic({ deviceId: 'scsi' }),
      /deviceId must be .*device ID from 1 to 63, not the string "scsi"/,
    ],
    [generic({ deviceId: 0 }), /deviceId must be .*1 to 63, not 0/],
    [generic({ deviceId: 1.5 }), /deviceId must be .*1 to 63, not 1.5/],
    [{ disks: [{ vhostUser, queues: 65 }] }, /disks\[0\].queues must be 1 to 64, not 65/],
    [{ disks: [{ vhostUser: { sock: '/s' } }] }, /option sock of .*; did you mean socket\?/],
    [generic({ deviceId: 4, configSize: 257 }), /configSize must be 0 to 256, not 257/],
    [{ fileSystems: [{ vhostUser }] }, /fileSystems\[0\].tag is missing; .* 1 to 36 bytes/],
    [{ fileSystems: [{ vhostUser, tag: 'x'.repeat(37) }] }, /tag must be .* 1 to 36 bytes/],
  ];
  for (const [options, message] of refused) {
    t.throws(wrong(options as Partial<MachineOptions>), { code: 'E_VHOST_USER', message });
  }
});

t.test('a vDPA device that is there, or is to be made', async (t) => {
  const mgmtdev = 'vdpasim_blk';
  const { devices } = resolveOptions({
    kernel,
    rng: false,
    disks: [{ vdpa: 'auto', mgmtdev }],
    devices: [{ vdpa: '/dev/vhost-vdpa-0' }],
  });
  t.same(
    devices.map(({ context }) => context.name),
    ['blk0', 'vdpa0'],
  );
  const refused: readonly (readonly [object, RegExp])[] = [
    [{ vdpa: 'auto' }, /needs a management device; add mgmtdev=NAME/],
    [{ vdpa: '/dev/x', mgmtdev }, /mgmtdev goes with vdpa=auto, not with vdpa=\/dev\/x/],
    [{ vdpa: '/dev/x', name: 'a' }, /name goes with vdpa=auto/],
    [{ vdpa: 'auto', mgmtdev, name: '..' }, /disks\[0\].name must be 1 to 64 letters/],
  ];
  for (const [disk, message] of refused) {
    const disks = [disk] as NonNullable<MachineOptions['disks']>;
    t.throws(wrong({ disks }), { code: 'E_VDPA', message });
  }
});

t.test('names that every object has are no options', async (t) => {
  for (const name of ['constructor', 'toString', '__proto__']) {
    const options = JSON.parse(`{ "kernel": "/k", "smbios": {}, "${name}": 1 }`) as MachineOptions;
    const message = new RegExp(`^unknown option ${name}; (it takes .*cpus|did you mean)`);
    t.throws(() => resolveOptions(options), { code: 'E_OPTION', message });
    const smbios = JSON.parse(`{ "${name}": 1 }`) as object;
    t.throws(wrong({ smbios }), { message: new RegExp(`^unknown option ${name} of smbios; `) });
  }
});

t.test('a machine boots either files or a guest image', async (t) => {
  const refused: readonly (readonly [unknown, RegExp])[] = [
    [{}, /^the machine has nothing to boot; set guest \(minimal or tools\) or kernel \(a file\)$/],
    [{ guestKernel: '6.1' }, /nothing to boot/],
    [{ kernel, guest: 'minimal' }, /^kernel and guest exclude each other; leave out one of them$/],
    [{ kernel, guestKernel: '6.1' }, /^kernel and guestKernel exclude each other/],
    [{ guest: 'lab' }, /^guest must be minimal or tools, not "lab"$/],
    [{ guest: 'minimal', guestKernel: '5.10' }, /^guestKernel must be 6.12, 6.1 or 6.12-amd64/],
    [[], /^options must be an object, not an array$/],
    [undefined, /^options must be an object, not undefined$/],
  ];
  for (const [options, message] of refused) {
    t.throws(() => resolveOptions(options as MachineOptions), { code: 'E_OPTION', message });
  }
  const resolved = resolveOptions({ guest: 'tools', guestKernel: '6.1', initrd: '/initrd' });
  t.match(resolved, { guest: 'tools', guestKernel: '6.1', initrd: '/initrd' });
  t.equal('kernel' in resolved, false);
});

t.test('what is misspelt, or of another type', async (t) => {
  const refused: readonly (readonly [object, string])[] = [
    [{ memroy: 1 }, 'unknown option memroy; did you mean memory?'],
    [{ cpus: '2' }, 'cpus must be an integer, 1 to 16, not the string "2"'],
    [{ cpus: 17 }, 'cpus must be 1 to 16, not 17'],
    [{ kernel: 5 }, 'kernel must be a string, not 5'],
    [{ kernel: '' }, 'kernel must be a FILE, not ""'],
    [{ hugePages: 1 }, 'hugePages must be true or false, not 1'],
    [{ notify: 'mem' }, 'notify must be io or memory, not "mem"'],
    [{ onReboot: 'halt' }, 'onReboot must be restart or exit, not "halt"'],
    [{ trace: { path: 'a' } }, 'unknown option path of trace; it takes file'],
    [{ smbios: { seriel: 'a' } }, 'unknown option seriel of smbios; did you mean serial?'],
    [{ smbios: { oemStrings: ['a', 1] } }, 'smbios.oemStrings[1] must be a string, not 1'],
    [{ hideCpuFeatures: 'avx' }, 'hideCpuFeatures must be an array, not the string "avx"'],
    [{ disks: { path: 'a' } }, 'disks must be an array, not an object'],
    [{ disks: [{}] }, 'disks[0].path is missing; it must be a FILE'],
    [
      { disks: [{ path: 'a', readonly: true }] },
      'unknown option readonly of disks[0]; did you mean readOnly?',
    ],
    [
      { nets: [{ ring: { paked: true } }] },
      'unknown option paked of nets[0].ring; did you mean packed?',
    ],
    [{ rng: 'no' }, 'rng must be true, false or an object, not the string "no"'],
    [
      { vsock: { cid: '3', path: 's' } },
      'vsock.cid must be an integer, 3 to 4294967294, not the string "3"',
    ],
    [{ console: { rings: {} } }, 'unknown option rings of console; did you mean ring?'],
    [{ smbios: [] }, 'smbios must be an object, not an array'],
    [{ disks: [[]] }, 'disks[0] must be an object, not an array'],
    [{ disks: [{ path: 'a', ring: [] }] }, 'disks[0].ring must be an object, not an array'],
    [{ disks: ['a'] }, 'disks[0] must be an object, not the string "a"'],
    [{ disks: [{ vhostUser: 's' }] }, 'disks[0].vhostUser must be an object, not the string "s"'],
    [
      { nets: [{ hostAdress: '' }] },
      'unknown option hostAdress of nets[0]; did you mean hostAddress?',
    ],
    [{ trace: true }, 'trace must be an object, not true'],
    [{ devices: [{ module: 'a', options: 5 }] }, 'devices[0].options must be an object, not 5'],
    [{ devices: [{ modul: 'a' }] }, 'unknown option modul of devices[0]; did you mean module?'],
    [{ guests: 'a' }, 'unknown option guests; did you mean guest?'],
  ];
  for (const [options, message] of refused) {
    t.throws(wrong(options as Partial<MachineOptions>), { name: 'UsageError', message }, message);
  }
  t.doesNotThrow(wrong({ cpus: undefined, disks: undefined } as unknown as MachineOptions));
});
