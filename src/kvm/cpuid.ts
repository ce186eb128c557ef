/**
 * What CPUID reports to each vCPU: what KVM supports on this host, with the topology of one socket of
 * single-threaded cores whose APIC ids are the vCPUs' numbers, and without hidden features.
 *
 * Sources: Intel SDM volume 2A, CPUID; AMD APM volume 3, appendix E; KVM's own leaves from
 * Documentation/virt/kvm/x86/cpuid.rst. KVM itself keeps OSXSAVE, leaf 0xd sizes and the APIC bit
 * current at run time.
 */
import * as os from 'node:os';
import { kvm_cpuid_entry2, kvm_cpuid2 } from '../abi/kvm.ts';
import {
  KVM_CPUID_FEATURES,
  KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
  KVM_CPUID_SIGNATURE,
} from '../abi/kvm-ioctl.ts';
import { StructMemory } from '../host/native-memory.ts';
import { featureBits, hideFeature } from './cpuid-features.ts';

/** What differs between machines and vCPUs. */
export interface GuestCpuidOptions {
  /** The vCPU's number, which is its APIC id. */
  readonly vcpu: number;
  /** vCPUs of the machine. */
  readonly cpus: number;
  /** KVM_CAP_TSC_DEADLINE_TIMER with the in-kernel local APIC. */
  readonly tscDeadlineTimer: boolean;
  /** Features to hide, by the names of /proc/cpuinfo. Default none. */
  readonly hide?: readonly string[];
  /** The CPU's name, at most 47 characters of ASCII. Default: the host's. */
  readonly brand?: string;
  /** Let the guest run KVM itself. Default false. */
  readonly nestedVirtualization?: boolean;
}

/** Leaf 0xb and 0x1f: level types of ECX bits 8 to 15. */
const LEVEL_INVALID = 0;
const LEVEL_SMT = 1;
const LEVEL_CORE = 2;
/** Leaf 0xb has one subleaf for each level and one that ends the list. */
const TOPOLOGY_LEVELS = [LEVEL_SMT, LEVEL_CORE, LEVEL_INVALID];
/** Cache level from which on all cores share: L3. */
const SHARED_CACHE_LEVEL = 3;
/** Paravirtual features that need exits which nodevmm does not serve: bits 15 to 17. */
const UNSERVED_KVM_FEATURES = 0x3_8000;

const AMD_VENDORS = ['AuthenticAMD', 'HygonGenuine'];
/** Leaves 0x8000_0002 to 0x8000_0004: the name in 48 bytes with a final 0. KVM leaves them empty. */
const BRAND_LEAVES: readonly number[] = [0x8000_0002, 0x8000_0003, 0x8000_0004];
const BRAND_BYTES = 48;
/** Leaves that are replaced, or describe the host's own topology. */
const DROPPED_LEAVES: readonly number[] = [0xb, 0x1f, 0x8000_0026, ...BRAND_LEAVES];
/** What AMD's nested virtualization can do. */
const SVM_LEAF = 0x8000_000a;
/** Performance counters. */
const EMPTIED_LEAVES: readonly number[] = [0xa];

/** The vendor string of leaf 0. */
export function cpuVendor(entries: readonly CpuidEntry[]): string {
  const leaf = entries.find((entry) => entry.function === 0);
  if (leaf === undefined) return '';
  const text = Buffer.alloc(12);
  text.writeUInt32LE(leaf.ebx, 0);
  text.writeUInt32LE(leaf.edx, 4);
  text.writeUInt32LE(leaf.ecx, 8);
  return text.toString('latin1');
}

/** Replaces the bits of `mask` by those of `value`. */
function merge(register: number, mask: number, value: number): number {
  return ((register & ~mask) | (value & mask)) >>> 0;
}

/** Bits that number `count` things. */
function bitsFor(count: number): number {
  return Math.ceil(Math.log2(count));
}

/** True when CPUID reports a feature. @throws UsageError for an unknown name */
export function hasFeature(entries: readonly CpuidEntry[], name: string): boolean {
  return featureBits(name).some(({ function: leaf, index, register, bit }) =>
    entries.some(
      (entry) =>
        entry.function === leaf && entry.index === index && (entry[register] >>> bit) % 2 === 1,
    ),
  );
}

/**
 * The CPUID of one vCPU.
 * @param supported what KVM_GET_SUPPORTED_CPUID returned; not changed
 * @throws UsageError for an unknown feature name
 */
export function guestCpuid(
  supported: readonly CpuidEntry[],
  options: GuestCpuidOptions,
): CpuidEntry[] {
  const amd = AMD_VENDORS.includes(cpuVendor(supported));
  const entries = supported
    .filter((entry) => !DROPPED_LEAVES.includes(entry.function))
    .map((entry) => ({ ...entry }));
  for (const entry of entries) fixLeaf(entry, options, amd);
  if ((supported[0]?.eax ?? 0) >= 0xb) entries.push(...topologyLeaves(options));
  entries.push(...brandLeaves(options.brand ?? os.cpus()[0]?.model ?? ''));
  if (options.nestedVirtualization !== true) {
    hideFeature(entries, 'vmx');
    hideFeature(entries, 'svm');
    for (const entry of entries.filter((e) => e.function === SVM_LEAF)) clear(entry);
  }
  for (const name of options.hide ?? []) hideFeature(entries, name);
  return entries;
}

function clear(entry: CpuidEntry): void {
  entry.eax = entry.ebx = entry.ecx = entry.edx = 0;
}

function fixLeaf(entry: CpuidEntry, options: GuestCpuidOptions, amd: boolean): void {
  const { vcpu, cpus } = options;
  if (EMPTIED_LEAVES.includes(entry.function)) {
    clear(entry);
    return;
  }
  switch (entry.function) {
    case 1:
      fixLeaf1(entry, options);
      break;
    case 4:
      fixCacheSharing(entry, cpus);
      // EAX 31:26: core ids in the package, less 1.
      if (cacheType(entry) !== 0) entry.eax = merge(entry.eax, 0xfc00_0000, (cpus - 1) << 26);
      break;
    case 0x8000_0001:
      // ECX 1, CmpLegacy: the logical processors of leaf 1 are cores.
      if (amd) entry.ecx = merge(entry.ecx, 1 << 1, cpus > 1 ? 1 << 1 : 0);
      break;
    case 0x8000_0008:
      // ECX 7:0: cores less 1; 15:12: bits of the APIC id that number them.
      if (amd) entry.ecx = merge(entry.ecx, 0xf0ff, (cpus - 1) | (bitsFor(cpus) << 12));
      break;
    case 0x8000_001d:
      fixCacheSharing(entry, cpus);
      break;
    case 0x8000_001e:
      // EAX: APIC id; EBX 7:0: core id, 15:8: threads of the core less 1; ECX: node 0 of 1.
      entry.eax = vcpu;
      entry.ebx = vcpu;
      entry.ecx = 0;
      break;
    case KVM_CPUID_SIGNATURE:
      entry.eax = Math.max(entry.eax, KVM_CPUID_FEATURES);
      break;
    case KVM_CPUID_FEATURES:
      entry.eax = merge(entry.eax, UNSERVED_KVM_FEATURES, 0);
      break;
    default:
  }
}

function fixLeaf1(entry: CpuidEntry, { vcpu, cpus, tscDeadlineTimer }: GuestCpuidOptions): void {
  // EBX 31:24: initial APIC id; 23:16: logical processors, which count when EDX 28 (HTT) is set.
  entry.ebx = merge(entry.ebx, 0xffff_0000, (vcpu << 24) | (cpus << 16));
  entry.edx = merge(entry.edx, 1 << 28, cpus > 1 ? 1 << 28 : 0);
  // ECX 24: TSC deadline timer, which KVM leaves to its user; 31: hypervisor; 15: PDCM, whose MSR
  // describes performance counters that leaf 0xa no longer has.
  entry.ecx = merge(entry.ecx, 1 << 24, tscDeadlineTimer ? 1 << 24 : 0);
  entry.ecx = merge(entry.ecx, 1 << 31, 1 << 31);
  entry.ecx = merge(entry.ecx, 1 << 15, 0);
}

/** EAX 4:0 of leaves 4 and 0x8000_001d: 0 ends the list. */
function cacheType(entry: CpuidEntry): number {
  return entry.eax & 0x1f;
}

/** EAX 25:14 of leaves 4 and 0x8000_001d: logical processors that share the cache, less 1. */
function fixCacheSharing(entry: CpuidEntry, cpus: number): void {
  if (cacheType(entry) === 0) return;
  const level = (entry.eax >>> 5) & 7;
  const sharing = level >= SHARED_CACHE_LEVEL ? cpus : 1;
  entry.eax = merge(entry.eax, 0x03ff_c000, (sharing - 1) << 14);
}

function brandLeaves(brand: string): CpuidEntry[] {
  const text = Buffer.alloc(BRAND_BYTES);
  text.write(brand, 0, BRAND_BYTES - 1, 'latin1');
  return BRAND_LEAVES.map((leaf, i) => ({
    function: leaf,
    index: 0,
    flags: 0,
    eax: text.readUInt32LE(i * 16),
    ebx: text.readUInt32LE(i * 16 + 4),
    ecx: text.readUInt32LE(i * 16 + 8),
    edx: text.readUInt32LE(i * 16 + 12),
  }));
}

function topologyLeaves({ vcpu, cpus }: GuestCpuidOptions): CpuidEntry[] {
  return TOPOLOGY_LEVELS.map((type, index) => ({
    function: 0xb,
    index,
    flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
    // EAX: bits of the APIC id up to and with this level; EBX: logical processors in it.
    eax: type === LEVEL_CORE ? bitsFor(cpus) : 0,
    ebx: type === LEVEL_INVALID ? 0 : type === LEVEL_SMT ? 1 : cpus,
    ecx: (type << 8) | index,
    edx: vcpu,
  }));
}

/** KVM_MAX_CPUID_ENTRIES of current kernels. */
const MAXIMUM = 256;

const ENTRY = kvm_cpuid_entry2.size;
const FUNCTION = kvm_cpuid_entry2.function.offset;
const INDEX = kvm_cpuid_entry2.index.offset;
const FLAGS = kvm_cpuid_entry2.flags.offset;
const EAX = kvm_cpuid_entry2.eax.offset;
const EBX = kvm_cpuid_entry2.ebx.offset;
const ECX = kvm_cpuid_entry2.ecx.offset;
const EDX = kvm_cpuid_entry2.edx.offset;

/** One CPUID leaf and what it returns; all are unsigned 32-bit numbers. */
export interface CpuidEntry {
  function: number;
  index: number;
  /** KVM_CPUID_FLAG_SIGNIFCANT_INDEX when `index` matters. */
  flags: number;
  eax: number;
  ebx: number;
  ecx: number;
  edx: number;
}

/** The struct in memory, with room for as many entries as KVM takes. */
export class CpuidTable extends StructMemory<typeof kvm_cpuid2> {
  constructor(entries?: readonly CpuidEntry[]) {
    super(kvm_cpuid2, MAXIMUM * ENTRY);
    if (entries !== undefined && entries.length > MAXIMUM) {
      throw new RangeError('too many CPUID entries');
    }
    this.set('nent', entries?.length ?? MAXIMUM);
    for (const [i, entry] of (entries ?? []).entries()) {
      const at = kvm_cpuid2.size + i * ENTRY;
      this.view.setUint32(at + FUNCTION, entry.function, true);
      this.view.setUint32(at + INDEX, entry.index, true);
      this.view.setUint32(at + FLAGS, entry.flags, true);
      this.view.setUint32(at + EAX, entry.eax, true);
      this.view.setUint32(at + EBX, entry.ebx, true);
      this.view.setUint32(at + ECX, entry.ecx, true);
      this.view.setUint32(at + EDX, entry.edx, true);
    }
  }

  /** The entries that KVM filled in. */
  entries(): CpuidEntry[] {
    return Array.from({ length: this.getNumber('nent') }, (_, i) => {
      const at = kvm_cpuid2.size + i * ENTRY;
      return {
        function: this.view.getUint32(at + FUNCTION, true),
        index: this.view.getUint32(at + INDEX, true),
        flags: this.view.getUint32(at + FLAGS, true),
        eax: this.view.getUint32(at + EAX, true),
        ebx: this.view.getUint32(at + EBX, true),
        ecx: this.view.getUint32(at + ECX, true),
        edx: this.view.getUint32(at + EDX, true),
      };
    });
  }
}
