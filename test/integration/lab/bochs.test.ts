/** What the lab's Intel machine is made of, and what it refuses. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { findProgram } from '../../../src/guest/programs.ts';
import { packageFolder } from '../../../src/host/package-folder.ts';
import { bochsConfiguration, bochsKernelCommandLine } from '../../../src/lab/bochs-command.ts';
import { resetRom } from '../../../src/lab/bochs-rom.ts';
import { rootArchive } from '../../../src/lab/bochs-root.ts';
import { Lab } from '../../../src/lab/lab.ts';
import { testFolder } from '../../support/rigs/files.ts';

const shape = { memoryMiB: 2048, port: 4711 };

t.test('the configuration', async (t) => {
  const text = bochsConfiguration(shape, [
    { file: 'ram0', address: 0 },
    { file: 'ram1', address: 0x10_0000 },
  ]);
  t.match(text, 'memory: guest=2048, host=2048\n');
  t.match(text, 'optramimage1: file=ram0, address=0x0\n');
  t.match(text, 'optramimage2: file=ram1, address=0x100000\n');
  t.match(text, 'com2: enabled=1, mode=socket-client, dev=127.0.0.1:4711\n');
  t.notMatch(text, /=[^,\n]*\//, 'no path, which could not be quoted');
  t.notMatch(text, /rfb|ethmod|pcap/, 'nothing listens');
});

t.test('the kernel gets the rest of the RAM, and the token', async (t) => {
  const line = bochsKernelCommandLine(shape, 300, 'secret', 'debug');
  t.match(line, / memmap=1748M@300M /);
  t.match(line, / nodevmm\.token=secret debug$/);
});

t.test('the ROM begins at the reset vector and ends in the kernel', async (t) => {
  const segment = {
    selector: 0x10,
    base: 0,
    limit: 0xffff_ffff,
    type: 11,
    present: 1,
    dpl: 0,
    db: 0,
    s: 1,
    l: 1,
    g: 1,
  } as const;
  const rom = resetRom(
    {
      mode: 'long64',
      rip: 0x100_0b53,
      rsp: 0,
      rbx: 0,
      rsi: 0x7000,
      cr0: 0x8000_0011,
      cr3: 0x9000,
      cr4: 0x20,
      efer: 0x500,
      gdt: { base: 0x500, limit: 39 },
      cs: segment,
      ds: segment,
      tr: segment,
    },
    { start: 0x10_0000, end: 2 ** 31, step: 0x2_0000 },
  );
  t.equal(rom.length, 0x1_0000);
  const objdump = findProgram('objdump');
  if (objdump === undefined) return t.comment('there is no objdump to read it with');
  const folder = testFolder(t);
  writeFileSync(join(folder, 'rom'), rom);
  const disassemble = (mode: string, from: number): string[] => {
    const range = [`--start-address=${from}`, `--stop-address=${Math.min(from + 0x80, 0x1_0000)}`];
    const args = ['-D', '-b', 'binary', '-m', mode, ...range, join(folder, 'rom')];
    const lines = execFileSync(objdump, args, { encoding: 'latin1' }).split('\n');
    return lines
      .map((line) => line.split('\t')[2]?.replace(/\s+/g, ' ').trim())
      .filter((line): line is string => line !== undefined && line !== '');
  };
  t.equal(disassemble('i8086', 0xfff0)[0], 'jmp 0x200');
  const real = disassemble('i8086', 0x200).slice(0, 6);
  t.same(real, [
    'cli',
    'lgdtl %cs:0x140',
    'mov %cr0,%eax',
    'or $0x1,%al',
    'mov %eax,%cr0',
    'ljmpl $0x8,$0xffff0280',
  ]);
  const wide = disassemble('i386', 0x280);
  const loop = wide.indexOf('mov (%esi),%al');
  t.same(wide.slice(loop - 1, loop + 4), [
    'mov $0x100000,%esi',
    'mov (%esi),%al',
    'add $0x20000,%esi',
    'cmp $0x80000000,%esi',
    'jb 0x28f',
  ]);
  for (const step of ['mov $0x20,%eax', 'mov $0x9000,%eax', 'mov $0x500,%eax', 'rdmsr']) {
    t.ok(wide.includes(step), step);
  }
  t.ok(wide.includes('ljmp $0x10,$0xffff0300'));
  t.same(disassemble('i386:x86-64', 0x300).slice(0, 3), [
    'mov $0x7000,%esi',
    'mov $0x1000b53,%eax',
    'jmp *%rax',
  ]);
});

t.test('the root holds node, the package, the guest and what is shared', async (t) => {
  const folder = testFolder(t);
  const image = join(folder, 'minimal-6.12-x');
  mkdirSync(image);
  for (const name of ['vmlinuz', 'initrd', 'manifest.json']) writeFileSync(join(image, name), name);
  const share = join(folder, 'share');
  mkdirSync(share);
  writeFileSync(join(share, 'file'), 'shared', { mode: 0o640 });
  const guest = {
    name: 'minimal',
    kernelVersion: '6.12.0',
    kernel: join(image, 'vmlinuz'),
    initrd: join(image, 'initrd'),
    initrdSize: 6,
    hash: '',
  };
  const archive = await rootArchive(guest, Buffer.from('unpacked'), [share]);
  const has = (path: string): boolean => archive.includes(`${path.slice(1)}\0`);
  for (const path of [
    process.execPath,
    join(packageFolder, 'dist/bundle/bin/main.js'),
    join(packageFolder, 'build/Release/nodevmm.node'),
    join(packageFolder, 'node_modules/koffi/package.json'),
    '/usr/bin/nodevmm',
    guest.initrd,
    join(share, 'file'),
  ]) {
    t.ok(has(path), path);
  }
  t.notOk(has(join(packageFolder, 'dist/bundle/bin/main.js.map')), 'no source maps');
  t.ok(archive.includes('unpacked'), 'the kernel is the unpacked one');
  t.notOk(archive.includes('vmlinuz\0vmlinuz'), 'and only that');
});

t.test('what the machine has not is refused before anything is made', async (t) => {
  for (const [options, message] of [
    [{ cpus: 2 }, /has one CPU; leave out --cpus/],
    [{ qemuArgs: ['-S'] }, /does not run in QEMU; leave out/],
    [{ machine: 'kernel-irqchip=split' }, /does not run in QEMU; leave out/],
    [{ memory: 8 * 2 ** 30 }, /at most 3072 MiB; reduce --memory/],
  ] as const) {
    await t.rejects(Lab.boot({ cpu: 'intel', ...options }), { code: 'E_LAB', message });
  }
});
