/**
 * Whether this host's KVM can run an operating system, found by running: an instruction that a
 * software KVM does not emulate, and a loop against the clock. Some hosts have a /dev/kvm that
 * interprets ring 0 instruction by instruction; it opens and runs small guests, but no Linux.
 */

import { KVM_EXIT_HLT, KVM_EXIT_SHUTDOWN } from '../abi/kvm-constants.ts';
import { CleanupStack, Closeable } from '../host/cleanup-stack.ts';
import { messageParts } from '../host/errors.ts';
import { Ram } from '../memory/ram.ts';
import { enterFlatMode } from './entry.ts';
import { exitName } from './exit-names.ts';
import { Kvm, OR_LAB } from './kvm.ts';
import { Vcpu } from './vcpu.ts';
import { Vm } from './vm.ts';

/** What the probe found. */
export interface KvmProbe {
  /** An unmodified Linux can run. */
  readonly usable: boolean;
  /** What executes guest instructions: a CPU (which may itself be emulated), or the KVM module. */
  readonly kind: 'hardware' | 'software' | 'none';
  /** Million instructions a second in a guest loop; 0 when that was not measured. */
  readonly mips: number;
  /** Why, in one line. */
  readonly detail: string;
  /** What to do when it is not usable. */
  readonly remedy?: string | undefined;
}

const VIRTUALIZE = `enable (nested) virtualization for this host, ${OR_LAB}`;

const RAM_SIZE = 0x1_0000;
const CODE = 0x1000;
const STACK_TOP = 0x8000;
/** Any pages outside of RAM. */
const TSS_ADDRESS = 0xfffb_d000;
const IDENTITY_MAP_ADDRESS = 0xfffb_c000;

/** With the empty IDT a triple fault on a CPU; an internal error where it is not emulated. */
const INT3 = [0xcc];
/** Loop of two instructions: `dec ecx; jnz -3; hlt`, its count in ECX. */
const LOOP = [0x49, 0x75, 0xfd, 0xf4];
const LOOP_INSTRUCTIONS = 2;
const FIRST_COUNT = 10_000;
const COUNT_FACTOR = 10;
const COUNT_LIMIT = 2 ** 32 - 1;
/** A measurement shorter than this is mostly the exit's own cost. */
const ENOUGH_MS = 20;

class ProbeGuest extends Closeable {
  readonly vcpu: Vcpu;
  readonly #resources: CleanupStack;

  constructor(kvm: Kvm, code: readonly number[]) {
    super();
    using stack = new CleanupStack();
    const ram = stack.use(new Ram(RAM_SIZE));
    const vm = stack.use(new Vm(kvm));
    vm.reserveRealModePages(TSS_ADDRESS, IDENTITY_MAP_ADDRESS);
    vm.setMemory(ram.memory);
    ram.memory.bytes(CODE, code.length).set(code);
    this.vcpu = new Vcpu(vm.createVcpu(0));
    enterFlatMode(this.vcpu, CODE, STACK_TOP);
    this.#resources = stack.move();
  }

  close(): void {
    this.#resources.dispose();
  }
}

/** Milliseconds that a loop of `count` rounds takes; NaN when it does not end as it should. */
function timeLoop(vcpu: Vcpu, count: number): number {
  vcpu.setRegisters({ rip: BigInt(CODE), rcx: BigInt(count) });
  const start = process.hrtime.bigint();
  const result = vcpu.enter();
  const ms = Number(process.hrtime.bigint() - start) / 1e6;
  return result === 0 && vcpu.exitReason === KVM_EXIT_HLT ? ms : Number.NaN;
}

function measureMips(kvm: Kvm): number {
  using guest = new ProbeGuest(kvm, LOOP);
  // The first entry pays for page faults, and for translation where the CPU is emulated.
  timeLoop(guest.vcpu, FIRST_COUNT);
  for (let count = FIRST_COUNT; ; count = Math.min(count * COUNT_FACTOR, COUNT_LIMIT)) {
    const ms = timeLoop(guest.vcpu, count);
    if (Number.isNaN(ms)) return 0;
    if (ms >= ENOUGH_MS || count === COUNT_LIMIT) {
      return (count * LOOP_INSTRUCTIONS) / ms / 1e3;
    }
  }
}

/**
 * Runs the probe in this thread: a millisecond, 100 with the measurement. Never throws.
 * @param measure also time a guest loop
 */
export function probeKvm(measure = false): KvmProbe {
  try {
    using kvm = Kvm.open();
    const mips = measure ? measureMips(kvm) : 0;
    const rate = measure ? ` at ${mips.toFixed(mips < 10 ? 1 : 0)} million instructions/s` : '';
    using guest = new ProbeGuest(kvm, INT3);
    const result = guest.vcpu.enter();
    if (result === 0 && guest.vcpu.exitReason === KVM_EXIT_SHUTDOWN) {
      const detail = `guest code runs on the CPU${rate}`;
      return { usable: true, kind: 'hardware', mips, detail };
    }
    const seen = result < 0 ? `errno ${-result}` : exitName(guest.vcpu.exitReason);
    const detail = `software KVM: it interprets guest code${rate}, and int3 caused ${seen}, so Linux cannot run on it`;
    return { usable: false, kind: 'software', mips, detail, remedy: VIRTUALIZE };
  } catch (error) {
    const [detail, remedy] = messageParts(error);
    return { usable: false, kind: 'none', mips: 0, detail, remedy };
  }
}

let known: KvmProbe | undefined;

/** As `probeKvm`, made once per process where there is a KVM. */
export function knownKvm(): KvmProbe {
  if (known !== undefined) return known;
  const probe = probeKvm();
  if (probe.kind !== 'none') known = probe;
  return probe;
}
