/**
 * A machine from power-on to power-off or reset: the VM in KVM, its board and its vCPU threads.
 * Guest RAM and devices outlive it; a reboot is the next cycle.
 */
import { KVM_CAP_TSC_DEADLINE_TIMER } from '../abi/kvm-constants.ts';
import { type BootProtocol, loadGuest } from '../boot/boot.ts';
import { pciMmio64Window } from '../boot/dsdt.ts';
import type { SmbiosOptions } from '../boot/smbios.ts';
import type { ViotOptions } from '../boot/viot.ts';
import { AsyncCleanupStack } from '../host/cleanup-stack.ts';
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
import type { SerialStream } from './consoles.ts';
import type { MachineDevice } from './devices/machine-device.ts';
import { ResourceAllocator } from './devices/resource-allocator.ts';
import type { MachineIommu } from './iommu.ts';
import type { MachineObserver } from './machine-observer.ts';
import type { MachineExit } from './options.ts';

/** What makes up a cycle. */
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
  /** Absent: the machine has none. */
  readonly iommu?: MachineIommu | undefined;
}

/** A running VM. */
export class PowerCycle {
  readonly #plan: CyclePlan;
  readonly #vm: Vm;
  readonly #board: Board;
  readonly #threads: VcpuThreads;
  readonly #ended: (exit: MachineExit) => void;
  readonly #viot: ViotOptions | undefined;
  #owned = new AsyncCleanupStack();

  /**
   * Loads the guest and lets it run.
   * @param ended called at least once when the guest ends on its own; the cycle still has to be closed
   * @throws UsageError for a guest that cannot be loaded, HostError when the host refuses
   */
  static async start(plan: CyclePlan, ended: (exit: MachineExit) => void): Promise<PowerCycle> {
    await using stack = new AsyncCleanupStack();
    const cpuid = guestCpuids(plan);
    const addressBits = physicalAddressBits(cpuid[0] ?? []);
    const window64 = pciMmio64Window(plan.memory.size, addressBits);
    const resources = stack.use(new ResourceAllocator(plan.notify, window64));
    const vm = stack.use(new Vm(plan.kvm));
    vm.reserveRealModePages(KVM_TSS_ADDRESS, KVM_IDENTITY_MAP_ADDRESS);
    vm.setMemory(plan.memory);
    vm.createIrqchip();
    vm.createPit();
    const vcpus = cpuid.map((entries, id) => {
      const vcpu = new Vcpu(vm.createVcpu(id));
      initializeVcpu(vcpu, entries);
      return vcpu;
    });
    const cycle = new PowerCycle(plan, vm, vcpus, resources, stack, ended);
    // The vCPU threads come up while the guest is being loaded.
    const { state } = await loadGuest({
      ...plan,
      protocol: plan.bootProtocol,
      physicalAddressBits: addressBits,
      mmioDevices: cycle.#board.windows,
      viot: cycle.#viot,
    });
    const [first] = vcpus;
    if (first !== undefined) applyEntry(first, state);
    cycle.#threads.resume();
    cycle.#owned = stack.move();
    return cycle;
  }

  /** @param stack gets the steps that undo it, in the order they were done */
  private constructor(
    plan: CyclePlan,
    vm: Vm,
    vcpus: readonly Vcpu[],
    resources: ResourceAllocator,
    stack: AsyncCleanupStack,
    ended: (exit: MachineExit) => void,
  ) {
    this.#plan = plan;
    this.#vm = vm;
    this.#ended = ended;
    const { observer, serial, memory } = plan;
    const { collector, check } = observer;
    const rtcTimer = stack.use(new Timerfd());
    const devices = plan.devices.map((device) => device.plan(resources));
    this.#viot = plan.iommu?.powerOn();
    const boardPlan: BoardPlan = {
      buffer: SharedState.allocate(Board.stateSize(devices.length)),
      vmFd: vm.fd,
      cpus: vcpus.length,
      rtcTimer: rtcTimer.fd,
      devices,
      routes: resources.routes,
      check,
    };
    const board = new Board(boardPlan, (message) => this.#message(message), collector?.main);
    this.#board = board;
    const rtcWatch = new LoopWatch(rtcTimer.fd, LOOP_READABLE, () => {
      if (rtcTimer.drain()) board.state.lock.with(() => board.rtc.expire());
    });
    stack.defer(() => rtcWatch.close());
    sys.check(board.reset(), 'KVM_SET_GSI_ROUTING', 'the VM');
    observer.noteClock(vm);
    stack.defer(() => observer.noteClock(vm));
    stack.defer(() => unplugAll(plan.devices, plan.iommu?.device));
    for (const device of plan.devices) device.plug(board, memory.share);
    serial.connect(board.serial);
    stack.defer(() => serial.connect(undefined));
    const events: VcpuThreadEvents = {
      message: (message) => this.#message(message),
      crashed: (error) =>
        ended({ reason: 'internal-error', detail: `a vCPU thread crashed: ${error.message}` }),
    };
    this.#threads = new VcpuThreads(boardPlan, board, vcpus, memory.share, events, (thread) =>
      collector?.ring(thread),
    );
    stack.defer(() => this.#threads.stop());
  }

  /** Quiesces vCPUs and devices. */
  async pause(): Promise<void> {
    await this.#threads.pause();
    for (const device of this.#plan.devices) await device.pause();
  }

  async resume(): Promise<void> {
    for (const device of this.#plan.devices) await device.resume();
    this.#threads.resume();
  }

  /** The guest may take it as a request to power off. */
  pressPowerButton(): void {
    this.#board.events.raise(GED_POWER_BUTTON);
  }

  /** Exits of all vCPUs so far, by reason (KVM_EXIT_*). */
  exitCounts(): number[] {
    return this.#threads.exitCounts();
  }

  /** KVM's counters of all vCPUs so far. */
  statistics(): ReadonlyMap<string, number> {
    return this.#vm.statistics();
  }

  /** Stops the guest where it is and releases the VM. */
  async close(): Promise<void> {
    await this.#owned.disposeAsync();
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

/**
 * All at once, but for the IOMMU: none of those behind it must use other addresses than its driver set up. A failure
 * does not keep the others from closing.
 */
async function unplugAll(
  devices: readonly MachineDevice[],
  iommu: MachineDevice | undefined,
): Promise<void> {
  const first = devices.filter((device) => device !== iommu);
  const unplugged = await Promise.allSettled(first.map((device) => device.unplug()));
  if (iommu !== undefined) unplugged.push(...(await Promise.allSettled([iommu.unplug()])));
  const failed = unplugged.find(({ status }) => status === 'rejected');
  if (failed?.status === 'rejected') throw failed.reason;
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
