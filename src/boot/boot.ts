/** Loads a guest: kernel, initial RAM disk, command line, ACPI and SMBIOS tables, and the first vCPU's registers. */
import { COMMAND_LINE_SIZE, ENTRY_64_OFFSET } from '../abi/linux-boot.ts';
import { UsageError } from '../host/errors.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { writeAcpiTables } from './acpi-tables.ts';
import {
  COMMAND_LINE_GPA,
  COMMAND_LINE_ROOM,
  type CpuEntryState,
  memoryMap,
  writeResetVector,
} from './boot-layout.ts';
import { type ByteSource, FileSource } from './byte-source.ts';
import type { MmioDevice } from './dsdt.ts';
import { type ElfImage, isInSegments, parseElf } from './elf.ts';
import { defaultKernelCache, type UnpackedKernel, unpackKernel } from './kernel-cache.ts';
import { type BzImage, kernelKind, parseBzImage } from './kernel-image.ts';
import { enterLinux32, enterLinux64 } from './linux-boot.ts';
import { loadBzImage, loadElf, loadInitrd } from './load-kernel.ts';
import { enterPvh } from './pvh.ts';
import { type SmbiosOptions, writeSmbios } from './smbios.ts';
import type { ViotOptions } from './viot.ts';

/** What every x86-64 processor has at least (Intel SDM vol. 3 §4.1.4). */
const DEFAULT_PHYSICAL_ADDRESS_BITS = 36;
/** boot.rst, `initrd_addr_max`: what kernels that name none can reach, and all newer ones too. */
const NO_INITRD_LIMIT = 0x7fff_ffff;

/** What ELF kernels of 32 bits can reach, whose own header is not at hand: as if it named none. */
const INITRD_LIMIT_32 = 0x37ff_ffff;

/** How a kernel is entered: by PVH, or by Linux' own 64-bit or 32-bit protocol. */
export type EntryProtocol = 'pvh' | 'linux64' | 'linux32';
/** `auto`: PVH where the kernel has it, else what its code is for. */
export type BootProtocol = EntryProtocol | 'auto';

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
   * Default `auto`. `linux64` and `linux32` with a bzImage start the compressed kernel, which
   * unpacks itself and chooses its address at random (KASLR); all others run where they are linked.
   */
  readonly protocol?: BootProtocol;
  /** Width of the guest's physical addresses by its CPUID 0x80000008. Default 36. */
  readonly physicalAddressBits?: number;
  /** Virtio devices in memory. Default none. */
  readonly mmioDevices?: readonly MmioDevice[];
  /** The IOMMU, and what is behind it. Default none. */
  readonly viot?: ViotOptions | undefined;
  /** Slots of PCI bus 0 whose devices cannot be ejected. Default none. */
  readonly fixedSlots?: readonly number[];
  /** 16 bytes that no other machine has. Default: zeros. */
  readonly generationId?: Uint8Array;
  /** The CPUs that the machine may have later, if that can change. */
  readonly maxCpus?: number;
  /** Strings for the SMBIOS tables, checked. Default: those that have one. */
  readonly smbios?: SmbiosOptions;
}

/** What the first vCPU starts with. */
export interface BootEntry {
  readonly protocol: EntryProtocol;
  readonly state: CpuEntryState;
  /** Guest physical range of the kernel. */
  readonly kernel: LoadedKernel['range'];
  /** Guest physical range of the initrd. */
  readonly initrd: { readonly gpa: number; readonly size: number } | undefined;
  readonly rsdpGpa: number;
}

/** A kernel in guest memory. */
interface LoadedKernel {
  readonly protocol: EntryProtocol;
  readonly entry: number;
  readonly range: { readonly gpa: number; readonly size: number };
  readonly bzImage: BzImage | undefined;
  /** Highest address that the initrd's last byte may have. */
  readonly initrdLimit: number;
}

/**
 * Loads everything into guest memory. May be called again on the same memory, for a reboot: it
 * writes all of it again.
 * @throws UsageError when a file is missing, damaged, no kernel, too large for the guest's
 *   memory, or the command line too long
 */
export async function loadGuest(plan: BootPlan): Promise<BootEntry> {
  const { memory, commandLine, cpus } = plan;
  const kernel = await loadKernel(plan);
  const { protocol, entry, range, bzImage } = kernel;
  writeCommandLine(memory, commandLine, bzImage?.commandLineSize ?? COMMAND_LINE_SIZE - 1);
  const initrd =
    plan.initrd === undefined
      ? undefined
      : loadInitrd(memory, plan.initrd, range.gpa + range.size, kernel.initrdLimit);
  const rsdpGpa = writeAcpiTables(memory, {
    cpus,
    ramSize: memory.reach,
    physicalAddressBits: plan.physicalAddressBits ?? DEFAULT_PHYSICAL_ADDRESS_BITS,
    mmioDevices: plan.mmioDevices ?? [],
    fixedSlots: plan.fixedSlots ?? [],
    ...(plan.maxCpus === undefined ? {} : { maxCpus: plan.maxCpus }),
    viot: plan.viot,
    generationId: plan.generationId ?? new Uint8Array(16),
  });
  writeSmbios(memory, plan.smbios ?? {}, cpus);
  writeResetVector(memory);
  const parameters = { memoryMap: memoryMap(memory), initrd, rsdpGpa };
  const zeroPage = { ...parameters, kernelGpa: range.gpa, header: bzImage?.header };
  const enter = {
    pvh: () => enterPvh(memory, entry, parameters),
    linux64: () => enterLinux64(memory, entry, zeroPage),
    linux32: () => enterLinux32(memory, entry, zeroPage),
  };
  return { protocol, state: enter[protocol](), kernel: range, initrd, rsdpGpa };
}

async function loadKernel(plan: BootPlan): Promise<LoadedKernel> {
  const { memory, kernel: path, protocol = 'auto' } = plan;
  using file = new FileSource(path, 'kernel');
  if (kernelKind(file) === 'elf') {
    return enterElf(memory, file, parseElf(file), protocol, undefined);
  }
  const bzImage = parseBzImage(file);
  const unpacked = await unpackForEntry(file, bzImage, plan);
  if (unpacked === undefined) return enterBzImage(memory, file, bzImage, protocol);
  using source = unpacked.source;
  return enterElf(memory, source, unpacked.image, protocol, bzImage);
}

/** What `auto` leaves to the code of the bzImage itself. */
const CANNOT_UNPACK: ReadonlySet<string> = new Set([
  'E_MISSING_TOOL',
  'E_UNKNOWN_COMPRESSION',
  'E_NOT_A_KERNEL',
]);

/** The vmlinux in a bzImage. Undefined when the bzImage's own code is to run, because it is wanted or has to. */
async function unpackForEntry(
  file: FileSource,
  bzImage: BzImage,
  { protocol = 'auto', cacheDir = defaultKernelCache() }: BootPlan,
): Promise<UnpackedKernel | undefined> {
  if (protocol === 'linux64' || protocol === 'linux32') return undefined;
  if (bzImage.payloadSize === 0) {
    if (protocol === 'auto') return undefined;
    throw new UsageError(
      'E_NO_PVH',
      `${file.name} has no payload with a PVH entry point`,
      'boot it with the protocol auto',
    );
  }
  try {
    return await unpackKernel(file, bzImage, cacheDir);
  } catch (error) {
    const isOwnAffair = error instanceof UsageError && CANNOT_UNPACK.has(error.code);
    if (protocol === 'auto' && isOwnAffair) return undefined;
    throw error;
  }
}

/** Lets the code of a bzImage run: a kernel that unpacks itself, or a program like memtest86+. */
function enterBzImage(
  memory: GuestMemory,
  file: FileSource,
  bzImage: BzImage,
  wanted: BootProtocol,
): LoadedKernel {
  const { entry64, initrdAddrMax: initrdLimit } = bzImage;
  const protocol = wanted === 'linux64' || (wanted === 'auto' && entry64) ? 'linux64' : 'linux32';
  if (protocol === 'linux64' && !entry64) {
    throw new UsageError(
      'E_BOOT_PROTOCOL',
      `${file.name} has no 64-bit entry point (XLF_KERNEL_64)`,
      'boot it with the protocol linux32',
    );
  }
  const range = loadBzImage(memory, file, bzImage);
  const entry = range.gpa + (protocol === 'linux64' ? ENTRY_64_OFFSET : 0);
  return { protocol, entry, range, bzImage, initrdLimit };
}

function enterElf(
  memory: GuestMemory,
  source: ByteSource,
  image: ElfImage,
  wanted: BootProtocol,
  bzImage: BzImage | undefined,
): LoadedKernel {
  const own = image.bits === 64 ? 'linux64' : 'linux32';
  const protocol = wanted === 'auto' ? (image.pvhEntry === undefined ? own : 'pvh') : wanted;
  if (protocol !== 'pvh' && protocol !== own) {
    throw new UsageError(
      'E_BOOT_PROTOCOL',
      `${source.name} is a ${image.bits}-bit vmlinux`,
      `boot it with the protocol ${own}`,
    );
  }
  const entry = protocol === 'pvh' ? image.pvhEntry : image.entry;
  if (entry === undefined) {
    throw new UsageError(
      'E_NO_PVH',
      `${source.name} has no PVH entry point (CONFIG_PVH)`,
      `boot it with the protocol ${own}`,
    );
  }
  if (!isInSegments(image, entry)) {
    throw new UsageError(
      'E_NOT_A_KERNEL',
      `${source.name} has its entry point outside its segments`,
      'use a Linux kernel for x86',
    );
  }
  const initrdLimit =
    bzImage?.initrdAddrMax ?? (image.bits === 64 ? NO_INITRD_LIMIT : INITRD_LIMIT_32);
  return { protocol, entry, range: loadElf(memory, source, image), bzImage, initrdLimit };
}

function writeCommandLine(memory: GuestMemory, text: string, kernelLimit: number): void {
  const bytes = new TextEncoder().encode(text);
  const limit = Math.min(kernelLimit, COMMAND_LINE_ROOM - 1);
  if (bytes.length > limit) {
    throw new UsageError(
      'E_COMMAND_LINE_TOO_LONG',
      `the kernel command line has ${bytes.length} bytes, more than this kernel's ${limit}`,
      'shorten it',
    );
  }
  if (bytes.includes(0)) {
    throw new UsageError(
      'E_COMMAND_LINE',
      'the kernel command line contains a NUL byte',
      'remove it',
    );
  }
  const room = memory.bytes(COMMAND_LINE_GPA, bytes.length + 1);
  room.set(bytes);
  room[bytes.length] = 0;
}
