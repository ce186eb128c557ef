/** Whole loads: what a guest finds in its memory, by boot.rst and Xen's start_info.h. */
import { mkdirSync, readdirSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { gzipSync } from 'node:zlib';
import t from 'tap';
import { type BootPlan, loadGuest } from '../../../src/boot/boot.ts';
import { MOST_CACHED_KERNELS } from '../../../src/boot/kernel-cache.ts';
import type { GuestMemory } from '../../../src/memory/guest-memory.ts';
import { Ram } from '../../../src/memory/ram.ts';
import {
  bzImage,
  elfKernel,
  type HeaderValues,
  KERNEL_GPA,
  kernelCode,
} from '../../support/fixtures/kernel-image.ts';

const MiB = 2 ** 20;
const GiB = 2 ** 30;
const directory = t.testdir();
const cacheDir = join(directory, 'cache');
const file = (name: string, bytes: Uint8Array): string => {
  const path = join(directory, name);
  writeFileSync(path, bytes);
  return path;
};
const kernels = {
  elf: file('vmlinux', elfKernel()),
  bzImage: file('vmlinuz', bzImage()),
  noPvh: file('no-pvh', elfKernel({ pvhEntry: null })),
};
const initrdBytes = kernelCode(10_000);
const initrd = file('initrd', initrdBytes);

type Rest = Partial<BootPlan> & { readonly kernel: string };
const load = (memory: GuestMemory, rest: Rest) =>
  loadGuest({ memory, commandLine: 'console=hvc0', cpus: 1, cacheDir, ...rest });

function memoryOf(t: Tap, size = 64 * MiB): GuestMemory {
  const ram = new Ram(size);
  t.teardown(() => ram[Symbol.dispose]());
  return ram.memory;
}
type Tap = { teardown: (end: () => void) => void };

const RAM = 1;
const RESERVED = 2;
const LOW_MAP = [
  [0, 0x9fc00, RAM],
  [0x9fc00, 0x60400, RESERVED],
];
const HOLE_MAP = [
  [0xe000_0000, MiB, RESERVED],
  [0xfffb_c000, 0x4000, RESERVED],
];

t.test('PVH: start info, module list, memory map, command line, kernel', async (t) => {
  for (const kernel of [kernels.elf, kernels.bzImage]) {
    const memory = memoryOf(t);
    const entry = await load(memory, { kernel, initrd });
    t.equal(entry.protocol, 'pvh');
    t.match(entry.state, {
      mode: 'protected32',
      rip: KERNEL_GPA + 0x30,
      cr0: 0x11,
      cr4: 0,
      efer: 0,
    });
    t.match(entry.state.cs, { base: 0, limit: 0xffff_ffff, type: 0xb, db: 1, l: 0, s: 1 });
    const info = entry.state.rbx;
    t.equal(memory.readU32(info), 0x336ec578, 'magic');
    t.same(
      [4, 8, 12].map((at) => memory.readU32(info + at)),
      [1, 0, 1],
      'version, flags, modules',
    );
    const modules = memory.readU64(info + 16);
    const gpa = memory.readU64(modules);
    t.equal(memory.readU64(modules + 8), initrdBytes.length);
    t.equal(gpa % 4096, 0);
    t.same(memory.bytes(gpa, initrdBytes.length), initrdBytes);
    const commandLine = memory.bytes(memory.readU64(info + 24), 13);
    t.equal(Buffer.from(commandLine).toString('latin1'), 'console=hvc0\0');
    t.equal(memory.readU64(info + 32), entry.rsdpGpa);
    const map = memory.readU64(info + 40);
    const entries = Array.from({ length: memory.readU32(info + 48) }, (_, index) => {
      const at = map + index * 24;
      return [memory.readU64(at), memory.readU64(at + 8), memory.readU32(at + 16)];
    });
    t.same(entries, [...LOW_MAP, [MiB, 63 * MiB, RAM], ...HOLE_MAP]);
    t.same(memory.bytes(KERNEL_GPA, 100_000), kernelCode(100_000));
  }
});

t.test('64-bit protocol with a vmlinux: zero page, page tables, GDT', async (t) => {
  const memory = memoryOf(t, 5 * GiB);
  const entry = await load(memory, { kernel: kernels.noPvh, initrd });
  t.equal(entry.protocol, 'linux64');
  const { state } = entry;
  t.match(state, { mode: 'long64', rip: KERNEL_GPA, cr0: 0x8000_0011, cr4: 0x20, efer: 0x500 });
  t.same([state.cs.selector, state.ds.selector], [0x10, 0x18], '__BOOT_CS, __BOOT_DS');
  t.match(state.cs, { l: 1, db: 0, type: 0xb });
  const descriptor = (selector: number): string =>
    Buffer.from(memory.bytes(state.gdt.base + selector, 8)).toString('hex');
  t.equal(descriptor(0x10), 'ffff0000009baf00');
  t.equal(descriptor(0x18), 'ffff00000093cf00');

  const page = state.rsi;
  t.equal(memory.readU32(page + 0x202), 0x53726448, 'HdrS');
  t.equal(memory.readU8(page + 0x210), 0xff, 'type_of_loader');
  t.equal(memory.readU32(page + 0x218), entry.initrd?.gpa);
  t.ok((entry.initrd?.gpa ?? 0) < 2 * GiB, 'the initrd lies below initrd_addr_max');
  t.equal(memory.readU32(page + 0x21c), initrdBytes.length);
  t.equal(memory.readU64(page + 0x70), entry.rsdpGpa);
  const entries = Array.from({ length: memory.readU8(page + 0x1e8) }, (_, index) => {
    const at = page + 0x2d0 + index * 20;
    return [memory.readU64(at), memory.readU64(at + 8), memory.readU32(at + 16)];
  });
  const high = [4 * GiB, 2 * GiB, RAM];
  t.same(entries, [...LOW_MAP, [MiB, 3 * GiB - MiB, RAM], ...HOLE_MAP, high]);

  const translate = (address: number): number => {
    const table = (at: number): number => memory.readU64(at) - 3;
    const pointers = table(state.cr3);
    const directory = table(pointers + Math.floor(address / GiB) * 8);
    return memory.readU64(directory + Math.floor((address % GiB) / (2 * MiB)) * 8) - 0x83;
  };
  for (const address of [0, KERNEL_GPA, 3 * GiB, 4 * GiB - 2 * MiB]) {
    t.equal(translate(address), address, 'identity');
  }
});

t.test('64-bit protocol with a bzImage: the compressed kernel, its own header', async (t) => {
  const memory = memoryOf(t);
  const entry = await load(memory, { kernel: kernels.bzImage, protocol: 'linux64' });
  t.equal(entry.state.rip, KERNEL_GPA + 0x200);
  t.same(entry.kernel, { gpa: KERNEL_GPA, size: 0x40_0000 }, 'init_size is reserved');
  const image = readFileSync(kernels.bzImage);
  const code = image.subarray(4 * 512);
  t.same(Buffer.from(memory.bytes(KERNEL_GPA, code.length)), code);
  const header = Buffer.from(memory.bytes(entry.state.rsi + 0x230, 0x26c - 0x230));
  t.same(header, image.subarray(0x230, 0x26c));
});

/** Like memtest86+: a bzImage without a payload. */
const noPayload = (values: HeaderValues = {}): Uint8Array =>
  bzImage(kernelCode(5000), {
    payload_offset: 0,
    payload_length: 0,
    pref_address: MiB,
    ...values,
  });

t.test('a bzImage without payload: its code is started, by the entry that it has', async (t) => {
  const code = Buffer.from(noPayload().subarray(4 * 512));
  const kernel64 = file('memtest64', noPayload());
  const kernel32 = file('memtest32', noPayload({ xloadflags: 0 }));
  for (const [kernel, protocol, expected] of [
    [kernel64, 'auto', 'linux64'],
    [kernel64, 'linux64', 'linux64'],
    [kernel64, 'linux32', 'linux32'],
    [kernel32, 'auto', 'linux32'],
    [kernel32, 'linux32', 'linux32'],
  ] as const) {
    const memory = memoryOf(t);
    const entry = await load(memory, { kernel, protocol, initrd });
    t.equal(entry.protocol, expected);
    t.equal(entry.state.rip, expected === 'linux64' ? MiB + 0x200 : MiB);
    t.same(Buffer.from(memory.bytes(MiB, code.length)), code);
    t.equal(memory.readU32(entry.state.rsi + 0x202), 0x53726448, 'HdrS');
    t.equal(memory.readU32(entry.state.rsi + 0x214), MiB, 'code32_start');
    t.equal(memory.readU32(entry.state.rsi + 0x218), entry.initrd?.gpa);
  }
});

t.test('32-bit protocol: flat segments, no paging, the zero page in ESI', async (t) => {
  const vmlinux = elfKernel({ bits: 32, pvhEntry: null });
  const kernels32 = [
    file('vmlinux32', vmlinux),
    file('vmlinuz32', bzImage(gzipSync(vmlinux), { xloadflags: 0 })),
  ];
  for (const kernel of kernels32) {
    const memory = memoryOf(t, 5 * GiB);
    const { protocol, state, initrd: disk } = await load(memory, { kernel, initrd });
    t.equal(protocol, 'linux32');
    t.match(state, { mode: 'protected32', rip: KERNEL_GPA, cr0: 0x11, cr3: 0, cr4: 0, efer: 0 });
    t.match(state, { rbx: 0, cs: { selector: 0x10, db: 1, l: 0 }, ds: { selector: 0x18 } });
    const descriptor = (selector: number): string =>
      Buffer.from(memory.bytes(state.gdt.base + selector, 8)).toString('hex');
    t.equal(descriptor(0x10), 'ffff0000009bcf00');
    t.equal(descriptor(0x18), 'ffff00000093cf00');
    t.equal(memory.readU32(state.rsi + 0x202), 0x53726448, 'HdrS');
    t.equal(memory.readU64(state.rsi + 0x70) >= 0xe_0000, true, 'RSDP');
    t.equal(memory.readU32(state.rsi + 0x218), disk?.gpa);
  }
});

t.test('a 32-bit kernel with a PVH note, alone and in a bzImage', async (t) => {
  const vmlinux = elfKernel({ bits: 32 });
  for (const kernel of [
    file('pvh32', vmlinux),
    file('pvhz32', bzImage(gzipSync(vmlinux), { xloadflags: 0 })),
  ]) {
    const memory = memoryOf(t);
    const entry = await load(memory, { kernel });
    t.equal(entry.protocol, 'pvh');
    t.match(entry.state, { mode: 'protected32', rip: KERNEL_GPA + 0x30 });
    t.same(memory.bytes(KERNEL_GPA, 100_000), kernelCode(100_000));
  }
});

t.test('initrd_addr_max is kept, whatever the entry', async (t) => {
  const memory = memoryOf(t, 3 * GiB);
  const in32 = elfKernel({ bits: 32 });
  const cases: [string, Uint8Array, number][] = [
    ['32-bit ELF: the default of boot.rst', in32, 0x37ff_ffff],
    ['64-bit ELF', elfKernel(), 0x7fff_ffff],
    ['bzImage of 32 bits', bzImage(gzipSync(in32), { initrd_addr_max: 0x2fff_ffff }), 0x2fff_ffff],
    ['bzImage', bzImage(undefined, { initrd_addr_max: 0x1fff_ffff }), 0x1fff_ffff],
    ['no payload', noPayload({ initrd_addr_max: 0x0fff_ffff }), 0x0fff_ffff],
    ['no limit but RAM', noPayload({ initrd_addr_max: 0xffff_ffff }), 3 * GiB - 1],
  ];
  for (const [name, image, limit] of cases) {
    const entry = await load(memory, { kernel: file('limit', image), initrd });
    const { gpa = 0, size = 0 } = entry.initrd ?? {};
    t.ok(gpa + size - 1 <= limit && gpa + size + 4096 > limit, name);
  }
});

t.test('auto starts a bzImage that cannot be unpacked here', async (t) => {
  const memory = memoryOf(t);
  const unknown = file('unknown', bzImage(new Uint8Array(100).fill(7)));
  const notElf = file('not-elf', bzImage(gzipSync(new Uint8Array(1000).fill(7))));
  for (const kernel of [unknown, notElf]) {
    const entry = await load(memory, { kernel });
    t.equal(entry.protocol, 'linux64');
    t.equal(entry.state.rip, KERNEL_GPA + 0x200);
  }
  await t.rejects(load(memory, { kernel: unknown, protocol: 'pvh' }), {
    code: 'E_UNKNOWN_COMPRESSION',
  });
});

t.test('loading again on the same memory rewrites everything', async (t) => {
  const memory = memoryOf(t);
  const first = await load(memory, { kernel: kernels.elf, initrd });
  const before = Buffer.from(memory.bytes(0, 64 * MiB));
  for (const start of [0x500, 0x6000, 0xe0000, 0xfff00, KERNEL_GPA, first.initrd?.gpa ?? 0]) {
    memory.bytes(start, 5000).fill(0xff);
  }
  t.same(await load(memory, { kernel: kernels.elf, initrd }), first);
  for (const [start, length] of [
    [0x6000, 0x1000],
    [0xe0000, 0x10000],
    [0xffff0, 16],
    [KERNEL_GPA, 150_000],
    [first.initrd?.gpa ?? 0, 10_000],
  ] as const) {
    t.ok(before.subarray(start, start + length).equals(memory.bytes(start, length)));
  }
});

t.test('the cache: hit, damaged, renewed by a new kernel, bounded, useless', async (t) => {
  const memory = memoryOf(t);
  const cache = join(directory, 'other');
  const kernel = file('cached', bzImage());
  const plan = { kernel, cacheDir: cache };
  await load(memory, plan);
  const [name = ''] = readdirSync(cache);
  t.match(name, /^[0-9a-f]{32}\.vmlinux$/);
  const cached = elfKernel({ pvhEntry: KERNEL_GPA + 0x44 });
  writeFileSync(join(cache, name), cached);
  t.equal((await load(memory, plan)).state.rip, KERNEL_GPA + 0x44, 'a hit is what is loaded');
  writeFileSync(join(cache, name), cached.subarray(0, 5000));
  t.equal((await load(memory, plan)).state.rip, KERNEL_GPA + 0x30, 'a cut one is unpacked again');

  const newer = elfKernel({ pvhEntry: KERNEL_GPA + 0x50 });
  file('cached', bzImage(gzipSync(newer)));
  t.equal((await load(memory, plan)).state.rip, KERNEL_GPA + 0x50, 'a new kernel misses');
  for (let index = 0; index < MOST_CACHED_KERNELS; index++) {
    const old = join(cache, `${index}.vmlinux`);
    writeFileSync(old, '');
    utimesSync(old, index, index);
  }
  const left = join(cache, '.left.tmp');
  writeFileSync(left, '');
  utimesSync(left, 1, 1);
  file('cached', bzImage());
  await load(memory, plan);
  const names = readdirSync(cache);
  t.equal(names.length, MOST_CACHED_KERNELS, 'the kernels used last stay, leftovers go');
  t.notOk(names.includes('0.vmlinux'));

  const blocked = file('blocked', new Uint8Array(1));
  const entry = await load(memory, { kernel, cacheDir: join(blocked, 'x') });
  t.equal(entry.state.rip, KERNEL_GPA + 0x30, 'without a cache it boots all the same');
});

t.test('bad input: one line with what, why, what to do', async (t) => {
  const memory = memoryOf(t, 32 * MiB);
  mkdirSync(join(directory, 'folder'));
  const far = { segments: [{ paddr: KERNEL_GPA, bytes: kernelCode(10), memsz: 17 * MiB }] };
  const low = { segments: [{ paddr: 0x8000, bytes: kernelCode(10) }], entry: 0x8000 };
  const cases: [string, Rest, string, RegExp][] = [
    [
      'missing',
      { kernel: '/nonexistent' },
      'E_FILE',
      /^kernel \/nonexistent cannot be read: no such file/,
    ],
    ['folder', { kernel: join(directory, 'folder') }, 'E_FILE', /not a regular file/],
    ['no kernel', { kernel: initrd }, 'E_NOT_A_KERNEL', /neither a bzImage nor ELF/],
    [
      'truncated',
      { kernel: file('cut', readFileSync(kernels.bzImage).subarray(0, 2500)) },
      'E_TRUNCATED',
      /it needs \d+ bytes and has 2500/,
    ],
    [
      'damaged',
      { kernel: file('bent', readFileSync(kernels.bzImage).fill(0x55, 4000, 4100)) },
      'E_DAMAGED',
      /does not unpack/,
    ],
    [
      'needs more memory',
      { kernel: file('far', elfKernel({ ...far, pvhEntry: null })) },
      'E_MEMORY_TOO_SMALL',
      /needs memory up to 33 MiB and the guest has 32 MiB/,
    ],
    [
      'below 1 MiB',
      { kernel: file('low', elfKernel({ ...low, pvhEntry: null })) },
      'E_NOT_A_KERNEL',
      /1 MiB/,
    ],
    [
      'entry outside',
      { kernel: file('out', elfKernel({ pvhEntry: 0x100 })) },
      'E_NOT_A_KERNEL',
      /entry point outside/,
    ],
    [
      '64-bit entry of a 32-bit bzImage',
      { kernel: file('only32', noPayload({ xloadflags: 0 })), protocol: 'linux64' },
      'E_BOOT_PROTOCOL',
      /has no 64-bit entry point .* protocol linux32$/,
    ],
    [
      '64-bit entry of a 32-bit vmlinux',
      { kernel: file('elf32', elfKernel({ bits: 32 })), protocol: 'linux64' },
      'E_BOOT_PROTOCOL',
      /a 32-bit vmlinux; boot it with the protocol linux32$/,
    ],
    [
      '32-bit entry of a 64-bit vmlinux',
      { kernel: kernels.elf, protocol: 'linux32' },
      'E_BOOT_PROTOCOL',
      /a 64-bit vmlinux; boot it with the protocol linux64$/,
    ],
    [
      'PVH without a payload',
      { kernel: file('no-payload', noPayload()), protocol: 'pvh' },
      'E_NO_PVH',
      /protocol auto$/,
    ],
    [
      'cut without a payload',
      { kernel: file('cut2', noPayload().subarray(0, 5000)) },
      'E_TRUNCATED',
      /it needs \d+ bytes and has 5000/,
    ],
    ['no PVH', { kernel: kernels.noPvh, protocol: 'pvh' }, 'E_NO_PVH', /protocol linux64/],
    ['initrd missing', { kernel: kernels.elf, initrd: '/nonexistent' }, 'E_FILE', /^initrd /],
    [
      'initrd empty',
      { kernel: kernels.elf, initrd: file('empty', new Uint8Array(0)) },
      'E_INITRD',
      /is empty/,
    ],
    [
      'initrd too large',
      { kernel: kernels.elf, initrd: file('large', new Uint8Array(16 * MiB)) },
      'E_INITRD_TOO_LARGE',
      /has 16 MiB and 15 MiB are free/,
    ],
    [
      'command line too long',
      { kernel: kernels.bzImage, commandLine: 'x'.repeat(2048) },
      'E_COMMAND_LINE_TOO_LONG',
      /has 2048 bytes, more than this kernel.s 2047/,
    ],
    ['NUL', { kernel: kernels.elf, commandLine: 'a\0b' }, 'E_COMMAND_LINE', /NUL/],
  ];
  for (const [name, rest, code, message] of cases) {
    await t.rejects(load(memory, rest), { name: 'UsageError', code, message }, name);
    await t.rejects(load(memory, rest), { message: /^[^\n]*; [^\n]*$|: [^\n]+; [^\n]+$/ }, name);
  }
});
