/** Loads a guest: kernel, initial RAM disk, command line, ACPI tables, and the first vCPU's registers. */
import { COMMAND_LINE_SIZE, ENTRY_64_OFFSET } from '../abi/linux-boot.ts';
import { UsageError } from '../host/errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { writeAcpiTables } from './acpi-tables.ts';
import { COMMAND_LINE_GPA, COMMAND_LINE_ROOM, memoryMap } from './boot-layout.ts';
import { type ByteSource, FileSource } from './byte-source.ts';
import type { MmioDevice } from './dsdt.ts';
import { type ElfImage, isInSegments, parseElf } from './elf.ts';
import type { CpuEntryState } from './entry-state.ts';
import { loadInitrd } from './initrd.ts';
import { defaultKernelCache, unpackKernel } from './kernel-cache.ts';
import { type BzImage, kernelKind, parseBzImage } from './kernel-image.ts';
import { enterLinux64 } from './linux64.ts';
import { loadBzImage, loadElf } from './load-kernel.ts';
import { enterPvh } from './pvh.ts';
import { writeResetVector } from './reset-vector.ts';

/** What every x86-64 processor has at least (Intel SDM vol. 3 §4.1.4). */
const DEFAULT_PHYSICAL_ADDRESS_BITS = 36;
/** boot.rst, `initrd_addr_max`: what kernels that name none can reach, and all newer ones too. */
const NO_INITRD_LIMIT = 0x7fff_ffff;

/** How the kernel is entered. `auto`: PVH where the kernel has it, else the 64-bit protocol. */
export type BootProtocol = 'pvh' | 'linux64' | 'auto';

/** What to load. */
export interface BootPlan {
  readonly memory: GuestMemory;
  /** Path of a bzImage or an ELF vmlinux. */
  readonly kernel: string;
  /** Path of an initial RAM disk. */
  readonly initrd?: string;
  readonly commandLine: string;
  /** vCPUs, 1 to 16. */
  readonly cpus: number;
  /** Folder for unpacked kernels. Default: `nodevmm/vmlinux` in the XDG cache folder. */
  readonly cacheDir?: string;
  /**
   * Default `auto`. `linux64` with a bzImage starts the compressed kernel, which unpacks itself
   * and chooses its address at random (KASLR); all others run where they are linked.
   */
  readonly protocol?: BootProtocol;
  /** Width of the guest's physical addresses by its CPUID 0x80000008. Default 36. */
  readonly physicalAddressBits?: number;
  /** Virtio devices in memory. Default none. */
  readonly mmioDevices?: readonly MmioDevice[];
}

/** What the first vCPU starts with. */
export interface BootEntry {
  readonly protocol: 'pvh' | 'linux64';
  readonly state: CpuEntryState;
  /** Guest physical range of the kernel. */
  readonly kernel: LoadedKernel['range'];
  /** Guest physical range of the initrd. */
  readonly initrd: { readonly gpa: number; readonly size: number } | undefined;
  readonly rsdpGpa: number;
}

/** A kernel in guest memory. */
interface LoadedKernel {
  readonly protocol: 'pvh' | 'linux64';
  readonly entry: number;
  readonly range: { readonly gpa: number; readonly size: number };
  readonly bzImage: BzImage | undefined;
}

/**
 * Loads everything into guest memory. May be called again on the same memory, for a reboot: it
 * writes all of it anew.
 * @throws UsageError when a file is missing, damaged, no kernel, too large for the guest's
 *   memory, or the command line too long
 */
export async function loadGuest(plan: BootPlan): Promise<BootEntry> {
  const { memory, commandLine, cpus } = plan;
  const kernel = await loadKernel(plan);
  const { protocol, entry, range, bzImage } = kernel;
  writeCommandLine(memory, commandLine, bzImage?.commandLineSize ?? COMMAND_LINE_SIZE - 1);
  const initrdLimit = bzImage?.initrdAddrMax ?? NO_INITRD_LIMIT;
  const initrd =
    plan.initrd === undefined
      ? undefined
      : loadInitrd(memory, plan.initrd, range.gpa + range.size, initrdLimit);
  const rsdpGpa = writeAcpiTables(memory, {
    cpus,
    ramSize: memory.size,
    physicalAddressBits: plan.physicalAddressBits ?? DEFAULT_PHYSICAL_ADDRESS_BITS,
    mmioDevices: plan.mmioDevices ?? [],
  });
  writeResetVector(memory);
  const parameters = { memoryMap: memoryMap(memory), initrd, rsdpGpa };
  const state =
    protocol === 'pvh'
      ? enterPvh(memory, entry, parameters)
      : enterLinux64(memory, entry, { ...parameters, header: bzImage?.header });
  return { protocol, state, kernel: range, initrd, rsdpGpa };
}

async function loadKernel(plan: BootPlan): Promise<LoadedKernel> {
  const { memory, kernel: path, protocol = 'auto' } = plan;
  using file = new FileSource(path, 'kernel');
  if (kernelKind(file) === 'elf') {
    return enterElf(memory, file, parseElf(file), protocol, undefined);
  }
  const bzImage = parseBzImage(file);
  if (protocol === 'linux64') {
    const range = loadBzImage(memory, file, bzImage);
    return { protocol, entry: range.gpa + ENTRY_64_OFFSET, range, bzImage };
  }
  const cacheDir = plan.cacheDir ?? defaultKernelCache();
  const unpacked = await unpackKernel(file, bzImage, cacheDir);
  using source = unpacked.source;
  return enterElf(memory, source, unpacked.image, protocol, bzImage);
}

function enterElf(
  memory: GuestMemory,
  source: ByteSource,
  image: ElfImage,
  wanted: BootProtocol,
  bzImage: BzImage | undefined,
): LoadedKernel {
  const protocol = wanted === 'auto' ? (image.pvhEntry === undefined ? 'linux64' : 'pvh') : wanted;
  const entry = protocol === 'pvh' ? image.pvhEntry : image.entry;
  if (entry === undefined) {
    throw new UsageError(
      'E_NO_PVH',
      `${source.name} has no PVH entry point (CONFIG_PVH); boot it with the protocol linux64`,
    );
  }
  if (!isInSegments(image, entry)) {
    throw new UsageError(
      'E_NOT_A_KERNEL',
      `${source.name} has its entry point outside of its segments; name an x86-64 Linux kernel`,
    );
  }
  return { protocol, entry, range: loadElf(memory, source, image), bzImage };
}

function writeCommandLine(memory: GuestMemory, text: string, kernelLimit: number): void {
  const bytes = new TextEncoder().encode(text);
  const limit = Math.min(kernelLimit, COMMAND_LINE_ROOM - 1);
  if (bytes.length > limit) {
    throw new UsageError(
      'E_COMMAND_LINE_TOO_LONG',
      `the kernel command line has ${bytes.length} bytes and this kernel takes ${limit}; shorten it`,
    );
  }
  if (bytes.includes(0)) {
    throw new UsageError(
      'E_COMMAND_LINE',
      'the kernel command line contains a NUL, which would end it; remove it',
    );
  }
  const room = memory.bytes(COMMAND_LINE_GPA, bytes.length + 1);
  room.set(bytes);
  room[bytes.length] = 0;
}
