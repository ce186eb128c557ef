/**
 * A machine from power-on to power-off or reset: the VM in KVM, its board and its vCPU threads.
 * Guest RAM and devices outlive it; a reboot is the next cycle.
 */
import { KVM_CAP_TSC_DEADLINE_TIMER } from '../abi/kvm-constants.ts';
import { type BootProtocol, loadGuest } from '../boot/boot.ts';
import type { SmbiosOptions } from '../boot/smbios-options.ts';
import { Timerfd } from '../host/fd.ts';
import { LOOP_READABLE, LoopWatch } from '../host/main-loop.ts';
import * as sys from '../host/syscall.ts';
import { guestCpuid } from '../kvm/cpuid.ts';
import { applyEntry, initializeVcpu } from '../kvm/entry.ts';
import type { Kvm } from '../kvm/kvm.ts';
import { Vcpu } from '../kvm/vcpu.ts';
import { Vm } from '../kvm/vm.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { KVM_IDENTITY_MAP_ADDRESS, KVM_TSS_ADDRESS } from '../platform/layout.ts';
import { GED_POWER_BUTTON } from '../platform/power.ts';
import { SharedState } from '../state/shared-state.ts';
import { Board, type BoardPlan } from './board/board.ts';
import { type VcpuThreadEvents, VcpuThreads } from './board/vcpu-threads.ts';
import type { VcpuMessage } from './board/vcpu-worker.ts';
import type { MachineDevice } from './devices/machine-device.ts';
import { ResourceAllocator } from './devices/resource-allocator.ts';
import type { MachineObserver } from './machine-observer.ts';
import type { MachineExit } from './options.ts';
import type { SerialStream } from './serial-stream.ts';

/** What a cycle is made of. */
export interface CyclePlan {
  readonly kvm: Kvm;
  readonly memory: GuestMemory;
  readonly kernel: string;
  readonly initrd?: string;
  readonly commandLine: string;
  readonly bootProtocol: BootProtocol;
  readonly smbios: SmbiosOptions;
  readonly cpus: number;
  readonly hideCpuFeatures: readonly string[];
  readonly notify: 'io' | 'memory';
  readonly devices: readonly MachineDevice[];
  readonly serial: SerialStream;
  readonly observer: MachineObserver;
}

/** A running VM. */
export class PowerCycle {
  readonly #plan: CyclePlan;
  readonly #vm: Vm;
  readonly #resources: ResourceAllocator;
  readonly #board: Board;
  readonly #threads: VcpuThreads;
  readonly #rtcTimer = new Timerfd();
  readonly #rtcWatch: LoopWatch;
  readonly #ended: (exit: MachineExit) => void;

  /**
   * Loads the guest and lets it run.
   * @param ended called once or more when the guest ends by itself; the cycle is still to be closed
   * @throws UsageError for a guest that cannot be loaded, HostError when the host refuses
   */
  static async start(plan: CyclePlan, ended: (exit: MachineExit) => void): Promise<PowerCycle> {
    const cpuid = guestCpuids(plan);
    const vm = new Vm(plan.kvm);
    const resources = new ResourceAllocator(plan.notify);
    let cycle: PowerCycle | undefined;
    try {
      vm.reserveRealModePages(KVM_TSS_ADDRESS, KVM_IDENTITY_MAP_ADDRESS);
      vm.setMemory(plan.memory);
      vm.createIrqchip();
      vm.createPit();
      const vcpus = cpuid.map((entries, id) => {
        const vcpu = new Vcpu(vm.createVcpu(id));
        initializeVcpu(vcpu, entries);
        return vcpu;
      });
      cycle = new PowerCycle(plan, vm, vcpus, resources, ended);
      cycle.#plug();
      // The vCPU threads come up while the guest is being loaded.
      const { state } = await loadGuest({
        ...plan,
        protocol: plan.bootProtocol,
        physicalAddressBits: physicalAddressBits(cpuid[0] ?? []),
        mmioDevices: cycle.#board.windows,
      });
      const [first] = vcpus;
      if (first !== undefined) applyEntry(first, state);
      cycle.#threads.resume();
      return cycle;
    } catch (error) {
      await cycle?.close();
      resources.close();
      vm[Symbol.dispose]();
      throw error;
    }
  }

  private constructor(
    plan: CyclePlan,
    vm: Vm,
    vcpus: readonly Vcpu[],
    resources: ResourceAllocator,
    ended: (exit: MachineExit) => void,
  ) {
    this.#plan = plan;
    this.#vm = vm;
    this.#resources = resources;
    this.#ended = ended;
    const { collector, check } = plan.observer;
    const devices = plan.devices.map((device) => device.plan(resources));
    const boardPlan: BoardPlan = {
      buffer: SharedState.allocate(Board.stateSize(devices.length)),
      vmFd: vm.fd,
      cpus: vcpus.length,
      rtcTimer: this.#rtcTimer.fd,
      devices,
      routes: resources.routes,
      check,
    };
    this.#board = new Board(boardPlan, (message) => this.#message(message), collector?.main);
    this.#rtcWatch = new LoopWatch(this.#rtcTimer.fd, LOOP_READABLE, () => {
      if (this.#rtcTimer.drain()) this.#board.state.lock.with(() => this.#board.rtc.expire());
    });
    sys.check(this.#board.reset(), 'KVM_SET_GSI_ROUTING', 'the VM');
    plan.observer.noteClock(vm);
    const events: VcpuThreadEvents = {
      message: (message) => this.#message(message),
      crashed: (error) =>
        ended({ reason: 'internal-error', detail: `a vCPU thread crashed: ${error.message}` }),
    };
    const { share } = plan.memory;
    this.#threads = new VcpuThreads(boardPlan, this.#board, vcpus, share, events, (thread) =>
      collector?.ring(thread),
    );
  }

  #plug(): void {
    const { devices, memory, serial } = this.#plan;
    for (const device of devices) device.plug(this.#board, memory.share);
    serial.connect(this.#board.serial);
  }

  /** Brings vCPUs and devices to rest. */
  async pause(): Promise<void> {
    await this.#threads.pause();
    for (const device of this.#plan.devices) await device.pause();
  }

  async resume(): Promise<void> {
    for (const device of this.#plan.devices) await device.resume();
    this.#threads.resume();
  }

  /** The guest may take it as the wish to be powered off. */
  pressPowerButton(): void {
    this.#board.events.raise(GED_POWER_BUTTON);
  }

  /** Exits of all vCPUs so far, by reason (KVM_EXIT_*). */
  exitCounts(): number[] {
    return this.#threads.exitCounts();
  }

  /** What KVM counted of all vCPUs so far. */
  statistics(): ReadonlyMap<string, number> {
    return this.#vm.statistics();
  }

  /** Stops the guest where it is and releases the VM. */
  async close(): Promise<void> {
    await this.#threads.stop();
    this.#rtcWatch.close();
    this.#rtcTimer[Symbol.dispose]();
    // One device that fails keeps neither the others nor the VM.
    const unplugging = this.#plan.devices.map((device) => device.unplug());
    const unplugged = await Promise.allSettled(unplugging);
    this.#plan.serial.connect(undefined);
    this.#plan.observer.noteClock(this.#vm);
    this.#vm[Symbol.dispose]();
    this.#resources.close();
    const failed = unplugged.find(({ status }) => status === 'rejected');
    if (failed?.status === 'rejected') throw failed.reason;
  }

  #message(message: VcpuMessage): void {
    switch (message.kind) {
      case 'serial-output':
        this.#plan.serial.collect();
        return;
      case 'power':
        this.#ended({ reason: message.event });
        return;
      case 'ended':
        this.#vcpuEnded(message);
        return;
      case 'paused':
        return;
      default:
        this.#plan.devices[message.device]?.message(message);
    }
  }

  #vcpuEnded({ end, vcpu, summary, dump }: Extract<VcpuMessage, { kind: 'ended' }>): void {
    if (end === 'stopped') return;
    const detail = [summary, dump].filter((part) => part !== undefined).join('\n');
    const where = `vCPU ${vcpu}: ${detail}`;
    if (end === 'unhandled' || end === 'failed') {
      this.#ended({ reason: 'internal-error', detail: where });
    } else if (end === 'triple-fault') {
      this.#ended({ reason: end, detail: where });
    } else {
      this.#ended({ reason: end });
    }
  }
}

function guestCpuids({ kvm, cpus, hideCpuFeatures }: CyclePlan) {
  const supported = kvm.supportedCpuid();
  const tscDeadlineTimer = kvm.check(KVM_CAP_TSC_DEADLINE_TIMER) > 0;
  return Array.from({ length: cpus }, (_, vcpu) =>
    guestCpuid(supported, { vcpu, cpus, tscDeadlineTimer, hide: hideCpuFeatures }),
  );
}

/** CPUID 0x80000008, EAX bits 0 to 7. */
function physicalAddressBits(entries: ReturnType<typeof guestCpuid>): number {
  const leaf = entries.find((entry) => entry.function === 0x8000_0008);
  return leaf === undefined ? 36 : leaf.eax & 0xff;
}
