/** The RAM of the lab's Intel machine before its first instruction: the kernel, and a root with nodevmm in it. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { loadGuest } from '../boot/boot.ts';
import { FileSource } from '../boot/byte-source.ts';
import { defaultKernelCache, unpackKernel } from '../boot/kernel-cache.ts';
import { parseBzImage } from '../boot/kernel-image.ts';
import type { Guest } from '../guest/guests.ts';
import { UsageError } from '../host/errors.ts';
import { Ram } from '../memory/ram.ts';
import { MiB } from '../memory/ram-layout.ts';
import { BOCHS_FILES, type RamImage } from './bochs-command.ts';
import { resetRom } from './bochs-rom.ts';
import { rootArchive } from './bochs-root.ts';

/** Above the kernel's end, for what it needs before it reads the memory map. */
const SLACK_MIB = 64;
/** RAM that must be left for what runs in the machine. */
const LEAST_FREE_MIB = 512;
/**
 * Bochs 2.7 gives out host memory in blocks of 128 KiB as they are first touched, and loads an
 * image as if all blocks were adjacent. Images of one block each, and a last one whose blocks
 * the ROM touches in their order, come out right with any way of allocation.
 */
const BLOCK_SIZE = 0x2_0000;
const HIGH_RAM = 0x10_0000;

/** What goes into the machine. */
export interface BochsContent {
  /** Kernel and first stage of the machine itself. */
  readonly stage: Guest;
  /** What nodevmm runs in it. */
  readonly guest: Guest;
  /** More folders, copied. */
  readonly shares: readonly string[];
}

/**
 * Writes RAM images and ROMs into the machine's folder.
 * @param commandLine the kernel's, by the MiB of RAM that its memory map names
 * @throws UsageError when it does not fit into the machine's memory
 */
export async function writeBochsImage(
  folder: string,
  memoryMiB: number,
  content: BochsContent,
  commandLine: (imageMiB: number) => string,
): Promise<RamImage[]> {
  const vmlinux = await unpacked(content.stage);
  // The kernel unpacks archives one after the other.
  const initramfs = Buffer.concat([
    readFileSync(content.stage.initrd),
    await rootArchive(content.guest, await unpacked(content.guest), content.shares),
  ]);
  const imageMiB = Math.ceil((vmlinux.length + initramfs.length) / MiB) + SLACK_MIB;
  if (imageMiB + LEAST_FREE_MIB > memoryMiB) {
    throw new UsageError(
      'E_MEMORY_TOO_SMALL',
      `the lab's kernel and files take ${imageMiB} MiB of its ${memoryMiB} MiB, and ${LEAST_FREE_MIB} MiB must stay free`,
      'increase its memory (-m) or share less',
    );
  }
  const kernel = join(folder, 'vmlinux');
  const initrd = join(folder, 'initrd');
  using ram = new Ram(imageMiB * MiB);
  try {
    writeFileSync(kernel, vmlinux);
    writeFileSync(initrd, initramfs);
    const { state } = await loadGuest({
      memory: ram.memory,
      kernel,
      initrd,
      commandLine: commandLine(imageMiB),
      cpus: 1,
      protocol: 'linux64',
    });
    const rom = resetRom(state, { start: HIGH_RAM, end: memoryMiB * MiB, step: BLOCK_SIZE });
    writeFileSync(join(folder, BOCHS_FILES.rom), rom);
    // Bochs requires one; it is never called.
    writeFileSync(join(folder, BOCHS_FILES.videoRom), Buffer.alloc(2048));
  } finally {
    rmSync(kernel, { force: true });
    rmSync(initrd, { force: true });
  }
  // All that the loader writes below 1 MiB except the ACPI tables, which would be in the ROM.
  const pieces = [
    [0, BLOCK_SIZE],
    [BLOCK_SIZE, BLOCK_SIZE],
    [HIGH_RAM, imageMiB * MiB - HIGH_RAM],
  ] as const;
  return pieces.map(([address, size], index) => {
    const file = `ram${index}`;
    writeFileSync(join(folder, file), ram.memory.bytes(address, size));
    return { file, address };
  });
}

/** A guest's kernel as ELF: unpacking itself under emulation, it would take half a minute. */
async function unpacked({ kernel }: Guest): Promise<Uint8Array> {
  using file = new FileSource(kernel, 'kernel');
  const { source } = await unpackKernel(file, parseBzImage(file), defaultKernelCache());
  using open = source;
  const vmlinux = new Uint8Array(open.size);
  open.read(0, vmlinux);
  return vmlinux;
}
