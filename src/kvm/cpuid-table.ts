/** `struct kvm_cpuid2` as a list of plain entries. */
import { kvm_cpuid_entry2, kvm_cpuid2 } from '../abi/kvm.ts';
import { StructMemory } from '../host/native-memory.ts';

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
