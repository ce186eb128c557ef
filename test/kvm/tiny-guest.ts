/** A machine of a few bytes of real-mode code, for tests of the KVM layer. */
import { Kvm } from '../../src/kvm/kvm.ts';
import { Vcpu } from '../../src/kvm/vcpu.ts';
import { Vm } from '../../src/kvm/vm.ts';
import type { GuestMemory } from '../../src/memory/guest-memory.ts';
import { Ram } from '../../src/memory/ram.ts';
import { KVM_IDENTITY_MAP_ADDRESS, KVM_TSS_ADDRESS } from '../../src/platform/layout.ts';

/** Where the code lies and starts: segment 0, above the interrupt vectors. */
export const CODE = 0x1000;
export const STACK_TOP = 0x8000;
/** Bit 1 of RFLAGS is always set. */
export const RFLAGS_RESERVED = 2n;

/** What a test's machine is made of. */
export interface TinyGuestOptions {
  readonly code: readonly number[];
  /** Bytes of RAM. Default 1 MiB. */
  readonly memory?: number;
  /** Default 1. */
  readonly cpus?: number;
  /** Create the in-kernel irqchip. Default false: then HLT is an exit. */
  readonly irqchip?: boolean;
}

/** A VM with its RAM and vCPUs; vCPU 0 starts at the code in real mode. */
export class TinyGuest implements Disposable {
  readonly kvm: Kvm;
  readonly vm: Vm;
  readonly memory: GuestMemory;
  readonly vcpus: readonly Vcpu[];
  readonly #owned: Disposable[] = [];

  constructor(options: TinyGuestOptions) {
    this.kvm = this.#own(Kvm.open());
    const ram = this.#own(new Ram(options.memory ?? 2 ** 20));
    this.memory = ram.memory;
    this.vm = this.#own(new Vm(this.kvm));
    this.vm.reserveRealModePages(KVM_TSS_ADDRESS, KVM_IDENTITY_MAP_ADDRESS);
    this.vm.setMemory(this.memory);
    if (options.irqchip === true) this.vm.createIrqchip();
    this.vcpus = Array.from(
      { length: options.cpus ?? 1 },
      (_, id) => new Vcpu(this.vm.createVcpu(id)),
    );
    this.load(CODE, options.code);
    this.start(this.vcpu);
  }

  get vcpu(): Vcpu {
    return this.vcpus[0] as Vcpu;
  }

  /** Copies bytes into guest RAM. */
  load(gpa: number, bytes: readonly number[]): void {
    this.memory.bytes(this.memory.offset(gpa, bytes.length), bytes.length).set(bytes);
  }

  /** Puts a vCPU at the code in real mode, all segments at 0. */
  start(vcpu: Vcpu): void {
    const { cs, ds } = vcpu.getSystemRegisters();
    const flat = { ...ds, base: 0n, selector: 0n };
    vcpu.setSystemRegisters({
      cs: { ...cs, base: 0n, selector: 0n },
      ds: flat,
      es: flat,
      ss: flat,
    });
    vcpu.setRegisters({ rip: BigInt(CODE), rflags: RFLAGS_RESERVED, rsp: BigInt(STACK_TOP) });
  }

  #own<T extends Disposable>(owned: T): T {
    this.#owned.push(owned);
    return owned;
  }

  [Symbol.dispose](): void {
    for (const owned of this.#owned.splice(0).reverse()) owned[Symbol.dispose]();
  }
}

/** Why tests with a VM can't run here, or false: goes into a test's `skip`. */
export function kvmMissing(): string | false {
  try {
    Kvm.open()[Symbol.dispose]();
    return false;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
