import { cpus } from 'node:os';
import t from 'tap';
import { UsageError } from '../../../src/host/errors.ts';
import { type CpuidEntry, cpuVendor, guestCpuid, hasFeature } from '../../../src/kvm/cpuid.ts';
import { CPU_FEATURE_NAMES, featureBits } from '../../../src/kvm/cpuid-features.ts';

function leaf(number: number, registers: Partial<Omit<CpuidEntry, 'function'>> = {}): CpuidEntry {
  return { function: number, index: 0, flags: 0, eax: 0, ebx: 0, ecx: 0, edx: 0, ...registers };
}

const ALL = 0xffff_ffff;
const AMD = leaf(0, { eax: 0x10, ebx: 0x68747541, ecx: 0x444d4163, edx: 0x69746e65 });
const INTEL = leaf(0, { eax: 0x1f, ebx: 0x756e6547, ecx: 0x6c65746e, edx: 0x49656e69 });
const base = { vcpu: 2, cpus: 4, tscDeadlineTimer: true };

function find(entries: readonly CpuidEntry[], number: number, index = 0): CpuidEntry {
  const entry = entries.find((e) => e.function === number && e.index === index);
  if (entry === undefined) throw new Error(`no leaf 0x${number.toString(16)}`);
  return entry;
}

t.test('leaf 0: vendor', (t) => {
  t.equal(cpuVendor([AMD]), 'AuthenticAMD');
  t.equal(cpuVendor([INTEL]), 'GenuineIntel');
  t.equal(cpuVendor([]), '');
  t.end();
});

t.test('leaf 1: APIC id, logical processors, HTT, TSC deadline, hypervisor, PDCM', (t) => {
  const supported = [AMD, leaf(1, { ebx: 0xab_cd_08_00, ecx: 1 << 15 })];
  const entry = find(guestCpuid(supported, base), 1);
  t.equal(entry.ebx, 0x02_04_08_00);
  t.equal(entry.edx, 1 << 28);
  t.equal(entry.ecx, ((1 << 31) | (1 << 24)) >>> 0);
  const single = find(
    guestCpuid([AMD, leaf(1, { ecx: 1 << 24, edx: 1 << 28 })], {
      vcpu: 0,
      cpus: 1,
      tscDeadlineTimer: false,
    }),
    1,
  );
  t.equal(single.edx, 0);
  t.equal(single.ecx, (1 << 31) >>> 0);
  t.same(supported[1], leaf(1, { ebx: 0xab_cd_08_00, ecx: 1 << 15 }), 'the input stays');
  t.end();
});

t.test('leaf 4 and 0x8000001d: private caches, and L3 shared by all cores', (t) => {
  const cache = (level: number): Partial<CpuidEntry> => ({
    eax: 0xffff_c000 | (level << 5) | 1,
    index: level,
  });
  const leaves = [1, 2, 3].flatMap((level) => [
    leaf(4, cache(level)),
    leaf(0x8000_001d, cache(level)),
  ]);
  const entries = guestCpuid([INTEL, ...leaves, leaf(4, { index: 4 })], base);
  const sharing = (e: CpuidEntry): number => (e.eax >>> 14) & 0xfff;
  t.same(
    [1, 2, 3].map((level) => sharing(find(entries, 4, level))),
    [0, 0, 3],
  );
  t.same(
    [1, 2, 3].map((level) => sharing(find(entries, 0x8000_001d, level))),
    [0, 0, 3],
  );
  t.equal(find(entries, 4, 1).eax >>> 26, 3, 'core ids of the package less 1');
  t.equal(find(entries, 4, 4).eax, 0, 'the end of the list');
  t.end();
});

t.test('leaf 0xb: one thread a core, all cores in one package', (t) => {
  const host = [leaf(0xb, { ebx: 99 }), leaf(0xb, { index: 1, ebx: 99 }), leaf(0x1f, { ebx: 99 })];
  const entries = guestCpuid([INTEL, ...host], { ...base, cpus: 5 });
  t.same(
    entries.filter((e) => e.function === 0xb).map((e) => [e.index, e.eax, e.ebx, e.ecx, e.edx]),
    [
      [0, 0, 1, 0x100, 2],
      [1, 3, 5, 0x201, 2],
      [2, 0, 0, 2, 2],
    ],
  );
  t.notOk(entries.some((e) => e.function === 0x1f));
  t.end();
});

t.test('AMD: leaf 0x80000008 ECX, 0x8000001e, CmpLegacy; Intel keeps its own', (t) => {
  const host = [
    leaf(0x8000_0001, { ecx: 0 }),
    leaf(0x8000_0008, { eax: 0x3030, ecx: 0x7007 }),
    leaf(0x8000_001e, { eax: 9, ebx: 0x0109, ecx: 3 }),
  ];
  const amd = guestCpuid([AMD, ...host], base);
  t.equal(find(amd, 0x8000_0008).ecx, 0x2003);
  t.equal(find(amd, 0x8000_0008).eax, 0x3030, 'physical address width');
  t.match(find(amd, 0x8000_001e), { eax: 2, ebx: 2, ecx: 0 });
  t.equal(find(amd, 0x8000_0001).ecx, 2);
  const intel = guestCpuid([INTEL, ...host], base);
  t.equal(find(intel, 0x8000_0008).ecx, 0x7007);
  t.equal(find(intel, 0x8000_0001).ecx, 0);
  t.end();
});

t.test('leaf 0xa is empty; KVM features without a server are off', (t) => {
  const entries = guestCpuid(
    [INTEL, leaf(0xa, { eax: ALL, ebx: 1, ecx: 1, edx: 1 }), leaf(0x4000_0001, { eax: ALL })],
    base,
  );
  t.match(find(entries, 0xa), { eax: 0, ebx: 0, ecx: 0, edx: 0 });
  t.equal(find(entries, 0x4000_0001).eax, 0xfffc_7fff);
  t.end();
});

t.test('leaves 0x80000002 to 4: the brand string', (t) => {
  const host = [AMD, leaf(0x8000_0002), leaf(0x8000_0003), leaf(0x8000_0004)];
  const brandOf = (brand?: string): string => {
    const entries = guestCpuid(host, brand === undefined ? base : { ...base, brand });
    const words = [0x8000_0002, 0x8000_0003, 0x8000_0004].flatMap((number) => {
      const { eax, ebx, ecx, edx } = find(entries, number);
      return [eax, ebx, ecx, edx];
    });
    return Buffer.from(Uint32Array.from(words).buffer).toString('latin1');
  };
  t.equal(brandOf('Some CPU'), 'Some CPU'.padEnd(48, '\0'));
  t.equal(brandOf('x'.repeat(60)), `${'x'.repeat(47)}\0`);
  t.equal(brandOf(), cpus()[0]?.model.slice(0, 47).padEnd(48, '\0'));
  t.equal(
    guestCpuid(host, base).filter((entry) => entry.function === 0x8000_0002).length,
    1,
    'each once',
  );
  t.end();
});

t.test('virtualization is hidden unless requested', (t) => {
  const host = [
    AMD,
    leaf(1, { ecx: 1 << 5 }),
    leaf(0x8000_0001, { ecx: 1 << 2 }),
    leaf(0x8000_000a, { edx: 1 }),
  ];
  t.notOk(hasFeature(guestCpuid(host, base), 'svm'));
  t.notOk(hasFeature(guestCpuid(host, base), 'vmx'));
  t.notOk(hasFeature(guestCpuid(host, base), 'npt'));
  const nested = guestCpuid(host, { ...base, nestedVirtualization: true });
  t.ok(hasFeature(nested, 'svm'));
  t.ok(hasFeature(nested, 'npt'));
  t.ok(hasFeature(nested, 'vmx'));
  t.end();
});

t.test('hidden features are cleared in every leaf that has them', (t) => {
  const host = [
    AMD,
    leaf(1, { ecx: ALL, edx: ALL }),
    leaf(7, { ebx: ALL, ecx: ALL, edx: ALL }),
    leaf(0x8000_0001, { ecx: ALL, edx: ALL }),
    leaf(0x8000_0008, { ebx: ALL }),
  ];
  for (const hidden of ['avx2', 'mmx', 'ssbd', 'rdrand']) {
    const entries = guestCpuid(host, { ...base, hide: [hidden] });
    t.notOk(hasFeature(entries, hidden), hidden);
    t.ok(hasFeature(entries, 'sse2'), 'and no other');
  }
  t.end();
});

t.test('feature names match the bits in the SDM and the APM', (t) => {
  for (const [name, ...bits] of [
    ['fpu', '1.0 edx 0', '80000001.0 edx 0'],
    ['sep', '1.0 edx 11'],
    ['clflush', '1.0 edx 19'],
    ['sse2', '1.0 edx 26'],
    ['pbe', '1.0 edx 31'],
    ['pcid', '1.0 ecx 17'],
    ['tsc_deadline_timer', '1.0 ecx 24'],
    ['hypervisor', '1.0 ecx 31'],
    ['avx2', '7.0 ebx 5'],
    ['avx512vl', '7.0 ebx 31'],
    ['umip', '7.0 ecx 2'],
    ['la57', '7.0 ecx 16'],
    ['rdpid', '7.0 ecx 22'],
    ['fsrm', '7.0 edx 4'],
    ['arch_capabilities', '7.0 edx 29'],
    ['avx_vnni', '7.1 eax 4'],
    ['xsaves', 'd.1 eax 3'],
    ['syscall', '80000001.0 edx 11'],
    ['nx', '80000001.0 edx 20'],
    ['fxsr', '1.0 edx 24', '80000001.0 edx 24'],
    ['lm', '80000001.0 edx 29'],
    ['3dnow', '80000001.0 edx 31'],
    ['topoext', '80000001.0 ecx 22'],
    ['perfctr_core', '80000001.0 ecx 23'],
    ['mwaitx', '80000001.0 ecx 29'],
    ['arat', '6.0 eax 2'],
    ['hwp', '6.0 eax 7'],
    ['nonstop_tsc', '80000007.0 edx 8'],
    ['clzero', '80000008.0 ebx 0'],
    ['virt_ssbd', '80000008.0 ebx 25'],
    ['vgif', '8000000a.0 edx 16'],
  ] as const) {
    const found = featureBits(name).map(
      (b) => `${b.function.toString(16)}.${b.index} ${b.register} ${b.bit}`,
    );
    t.same(found, bits, name);
  }
  t.equal(new Set(CPU_FEATURE_NAMES).size, CPU_FEATURE_NAMES.length);
  t.end();
});

t.test('an unknown feature name is refused with similar ones', (t) => {
  const hide = (name: string) => () => guestCpuid([AMD], { ...base, hide: [name] });
  t.throws(hide('avx-2'), UsageError);
  t.throws(hide('avx-2'), { message: /did you mean avx2/ });
  t.throws(hide('sse41'), { message: /did you mean sse4_1/ });
  t.throws(hide('no such feature'), { message: /see flags in \/proc\/cpuinfo/ });
  t.end();
});
