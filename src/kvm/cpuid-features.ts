/** CPU features by their names in /proc/cpuinfo, and their CPUID bits. */
import { UsageError } from '../host/errors.ts';
import type { CpuidEntry } from './cpuid.ts';

type Register = 'eax' | 'ebx' | 'ecx' | 'edx';

/** One bit of one CPUID register. */
export interface FeatureBit {
  readonly function: number;
  readonly index: number;
  readonly register: Register;
  readonly bit: number;
}

/** A register's feature names, bit 0 first; `_` for bits without one; `*N` skips to bit N. */
interface FeatureWord {
  readonly function: number;
  readonly index: number;
  readonly register: Register;
  readonly names: string;
}

/** Bits 0 to 24 of leaf 1 EDX, which AMD CPUs repeat in leaf 0x8000_0001 EDX. */
const REPEATED = `fpu vme de pse tsc msr pae mce cx8 apic *12 mtrr pge mca cmov pat pse36`;

const WORDS: readonly FeatureWord[] = [
  {
    function: 1,
    index: 0,
    register: 'edx',
    names: `fpu vme de pse tsc msr pae mce cx8 apic *11 sep mtrr pge mca cmov pat pse36 pn clflush
      *21 dts acpi mmx fxsr sse sse2 ss ht tm ia64 pbe`,
  },
  {
    function: 1,
    index: 0,
    register: 'ecx',
    names: `pni pclmulqdq dtes64 monitor ds_cpl vmx smx est tm2 ssse3 cid sdbg fma cx16 xtpr pdcm
      *17 pcid dca sse4_1 sse4_2 x2apic movbe popcnt tsc_deadline_timer aes xsave osxsave avx f16c
      rdrand hypervisor`,
  },
  {
    function: 6,
    index: 0,
    register: 'eax',
    names: `dtherm ida arat *4 pln *6 pts hwp hwp_notify hwp_act_window hwp_epp hwp_pkg_req *19 hfi`,
  },
  {
    function: 7,
    index: 0,
    register: 'ebx',
    names: `fsgsbase tsc_adjust sgx bmi1 hle avx2 *7 smep bmi2 erms invpcid rtm cqm *14 mpx rdt_a
      avx512f avx512dq rdseed adx smap avx512ifma *23 clflushopt clwb intel_pt avx512pf avx512er
      avx512cd sha_ni avx512bw avx512vl`,
  },
  {
    function: 7,
    index: 0,
    register: 'ecx',
    names: `*1 avx512vbmi umip pku ospke waitpkg avx512_vbmi2 shstk gfni vaes vpclmulqdq avx512_vnni
      avx512_bitalg tme avx512_vpopcntdq *16 la57 *22 rdpid *24 bus_lock_detect cldemote *27 movdiri
      movdir64b enqcmd sgx_lc pks`,
  },
  {
    function: 7,
    index: 0,
    register: 'edx',
    names: `*2 avx512_4vnniw avx512_4fmaps fsrm *8 avx512_vp2intersect *10 md_clear *14 serialize
      *16 tsxldtrk *18 pconfig arch_lbr ibt *22 amx_bf16 avx512_fp16 amx_tile amx_int8 spec_ctrl
      stibp flush_l1d arch_capabilities core_capabilities ssbd`,
  },
  {
    function: 7,
    index: 1,
    register: 'eax',
    names: `sha512 sm3 sm4 rao_int avx_vnni avx512_bf16 *7 cmpccxadd *10 fzrm fsrs fsrc *17 fred lkgs
      *21 amx_fp16 *23 avx_ifma *26 lam`,
  },
  {
    function: 7,
    index: 1,
    register: 'edx',
    names: `*4 avx_vnni_int8 avx_ne_convert *8 amx_complex *10 avx_vnni_int16 *14 prefetchi`,
  },
  { function: 0xd, index: 1, register: 'eax', names: 'xsaveopt xsavec xgetbv1 xsaves' },
  {
    function: 0x8000_0001,
    index: 0,
    register: 'edx',
    names: `${REPEATED} *11 syscall *19 mp nx *22 mmxext mmx fxsr fxsr_opt pdpe1gb rdtscp *29 lm
      3dnowext 3dnow`,
  },
  {
    function: 0x8000_0001,
    index: 0,
    register: 'ecx',
    names: `lahf_lm cmp_legacy svm extapic cr8_legacy abm sse4a misalignsse 3dnowprefetch osvw ibs
      xop skinit wdt *15 lwp fma4 tce *19 nodeid_msr *21 tbm topoext perfctr_core perfctr_nb *26
      bpext ptsc perfctr_llc mwaitx`,
  },
  { function: 0x8000_0007, index: 0, register: 'edx', names: '*8 nonstop_tsc' },
  {
    function: 0x8000_0008,
    index: 0,
    register: 'ebx',
    names: `clzero irperf xsaveerptr *4 rdpru *9 wbnoinvd *12 ibpb *14 ibrs stibp *23 amd_ppin ssbd
      virt_ssbd *27 cppc`,
  },
  {
    function: 0x8000_000a,
    index: 0,
    register: 'edx',
    names: `npt lbrv svm_lock nrip_save tsc_scale vmcb_clean flushbyasid decodeassists *10 pausefilter
      *12 pfthreshold avic *15 v_vmsave_vmload vgif`,
  },
];

function featureTable(): Map<string, FeatureBit[]> {
  const table = new Map<string, FeatureBit[]>();
  for (const { names, ...place } of WORDS) {
    let bit = 0;
    for (const name of names.split(/\s+/)) {
      if (name.startsWith('*')) {
        bit = Number(name.slice(1));
        continue;
      }
      const places = table.get(name) ?? [];
      places.push({ ...place, bit: bit++ });
      table.set(name, places);
    }
  }
  return table;
}

const features = featureTable();

/** Every feature name that can be hidden. */
export const CPU_FEATURE_NAMES: readonly string[] = [...features.keys()];

/**
 * The CPUID bits of a feature: more than one where Intel's and AMD's leaves both have it.
 * @param name as in /proc/cpuinfo
 * @throws UsageError for an unknown name, with similar ones
 */
export function featureBits(name: string): readonly FeatureBit[] {
  const bits = features.get(name);
  if (bits !== undefined) return bits;
  const near = nearNames(name);
  const hint = near.length > 0 ? `did you mean ${near.join(', ')}?` : 'see flags in /proc/cpuinfo';
  throw new UsageError('E_CPU_FEATURE', `unknown CPU feature ${JSON.stringify(name)}`, hint);
}

/** Clears a feature in a list of CPUID entries. @throws UsageError for an unknown name */
export function hideFeature(entries: readonly CpuidEntry[], name: string): void {
  for (const { function: leaf, index, register, bit } of featureBits(name)) {
    for (const entry of entries) {
      if (entry.function !== leaf || entry.index !== index) continue;
      entry[register] = (entry[register] & ~(1 << bit)) >>> 0;
    }
  }
}

const MOST_HINTS = 4;

function nearNames(name: string): string[] {
  const plain = (text: string): string => text.toLowerCase().replaceAll(/[^a-z0-9]/g, '');
  const wanted = plain(name);
  return CPU_FEATURE_NAMES.map((feature) => ({ feature, by: distance(wanted, plain(feature)) }))
    .filter(({ feature, by }) => by <= Math.max(1, Math.floor(plain(feature).length / 4)))
    .sort((a, b) => a.by - b.by)
    .slice(0, MOST_HINTS)
    .map(({ feature }) => feature);
}

/** Levenshtein distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i);
  for (const [i, letter] of [...a].entries()) {
    const next = [i + 1];
    for (const [j, other] of [...b].entries()) {
      const replace = (row[j] ?? 0) + (letter === other ? 0 : 1);
      next.push(Math.min(replace, (row[j + 1] ?? 0) + 1, (next[j] ?? 0) + 1));
    }
    row = next;
  }
  return row[b.length] ?? 0;
}
