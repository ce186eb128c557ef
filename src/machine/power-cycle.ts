/**
 * A machine from power-on to power-off or reset: the VM in KVM, its board and its vCPU threads.
 * Guest RAM and devices outlive it; a reboot is the next cycle.
 */
import { KVM_CAP_TSC_DEADLINE_TIMER, KVM_MEM_READONLY } from '../abi/kvm-constants.ts';
import { setGenerationId, wakingVector } from '../boot/acpi-tables.ts';
import { type BootProtocol, loadGuest } from '../boot/boot.ts';
import { HIGH_MEMORY_GPA } from '../boot/boot-layout.ts';
import { pciMmio64Window } from '../boot/dsdt.ts';
import type { SmbiosOptions } from '../boot/smbios.ts';
import type { ViotOptions } from '../boot/viot.ts';
import { AsyncCleanupStack } from '../host/cleanup-stack.ts';
import { InternalError } from '../host/errors.ts';
import { Timerfd } from '../host/fd.ts';
import { LOOP_READABLE, LoopWatch } from '../host/main-loop.ts';
import * as sys from '../host/syscall.ts';
import { guestCpuid } from '../kvm/cpuid.ts';
import { applyEntry, enterRealMode, initializeVcpu } from '../kvm/entry.ts';
import type { Kvm } from '../kvm/kvm.ts';
import { Vcpu } from '../kvm/vcpu.ts';
import { Vm } from '../kvm/vm.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { KVM_IDENTITY_MAP_ADDRESS, KVM_TSS_ADDRESS } from '../platform/layout.ts';
import { PM1_RTC, PM1_WAKE } from '../platform/pm1.ts';
import { GED_GENERATION } from '../platform/power.ts';
import type { SavedRtc } from '../platform/rtc.ts';
import { SharedState } from '../state/shared-state.ts';
import { Board, type BoardPlan } from './board/board.ts';
import type { DevicePlan } from './board/board-devices.ts';
import { type VcpuThreadEvents, VcpuThreads } from './board/vcpu-threads.ts';
import type { VcpuMessage } from './board/vcpu-worker.ts';
import type { SerialStream } from './consoles.ts';
import type { MachineDevice } from './devices/machine-device.ts';
import type { MachineDevices } from './devices/machine-devices.ts';
import { type LateResources, ResourceAllocator } from './devices/resource-allocator.ts';
import type { MachineGrowth } from './growing-ram.ts';
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
  /** Those that it may have later, if that can change. */
  readonly maxCpus?: number | undefined;
  readonly hideCpuFeatures: readonly string[];
  readonly notify: 'io' | 'memory';
  readonly devices: MachineDevices;
  readonly serial: SerialStream;
  readonly observer: MachineObserver;
  /** Absent: the machine has none. */
  readonly iommu?: MachineIommu | undefined;
  /** The machine's generation ID, 16 bytes. */
  readonly generationId: Uint8Array;
  /** Absent: its RAM does not grow. */
  readonly growth?: MachineGrowth | undefined;
}

/** What a cycle reports. */
export interface CycleEvents {
  /** At least once when the guest ends on its own; the cycle still has to be closed. */
  ended(exit: MachineExit): void;
  /** The guest went to sleep (S3). The cycle still has to be paused, and closed when the guest is woken. */
  suspended(): void;
  /** The clock's alarm rang, or a button was pressed; the guest wants to be woken by it. */
  wakeEvent(cause: number): void;
  /** The guest gave a device up: `pullOut` is to follow. */
  ejected(device: MachineDevice): void;
  /** The guest gave up a vCPU: `removeCpu` is to follow. */
  cpuEjected(cpu: number): void;
}

/** How a guest continues after a sleep in RAM (ACPI 6.5 §16.1.3). */
export interface WakeUp {
  /** Where it wants to be woken, in real mode. */
  readonly vector: number;
  /** What woke it, for it to see: PM1_* bits. */
  readonly cause: number;
  /** The time of kvm-clock, which stood still; undefined where KVM lacks it. */
  readonly clock: number | undefined;
  readonly rtc: SavedRtc;
  /** The slots on the PCI bus. */
  readonly slots: ReadonlyMap<MachineDevice, number>;
}

/** A running VM. */
export class PowerCycle {
  readonly #plan: CyclePlan;
  readonly #vm: Vm;
  readonly #board: Board;
  readonly #threads: VcpuThreads;
  readonly #resources: ResourceAllocator;
  /** By device: its slot on the PCI bus. */
  readonly #slots = new Map<MachineDevice, number>();
  /** Of devices that came after power-on. */
  readonly #late = new Map<MachineDevice, LateResources>();
  /** Removed devices whose registers can still be read. */
  readonly #lingering = new Set<NodeJS.Timeout>();
  readonly #events: CycleEvents;
  readonly #viot: ViotOptions | undefined;
  /** The next cycle wakes its guest. */
  isAsleep = false;
  /** The time of kvm-clock when the vCPUs last came to rest. */
  #clock: number | undefined;
  #owned = new AsyncCleanupStack();

  /**
   * Loads the guest and lets it run.
   * @param wakeUp the guest is in RAM already, and is woken
   * @throws UsageError for a guest that cannot be loaded, HostError when the host refuses
   */
  static async start(plan: CyclePlan, events: CycleEvents, wakeUp?: WakeUp): Promise<PowerCycle> {
    await using stack = new AsyncCleanupStack();
    const cpuid = guestCpuids(plan);
    const addressBits = physicalAddressBits(cpuid[0] ?? []);
    const window64 = pciMmio64Window(plan.memory.reach, addressBits);
    const resources = stack.use(new ResourceAllocator(plan.notify, window64));
    const vm = stack.use(new Vm(plan.kvm));
    vm.reserveRealModePages(KVM_TSS_ADDRESS, KVM_IDENTITY_MAP_ADDRESS);
    vm.setMemory(plan.memory);
    for (const { gpa, size, offset, readOnly } of plan.memory.share.files ?? []) {
      const address = plan.memory.address + offset;
      vm.setMemorySlot(
        resources.memorySlots(1),
        gpa,
        size,
        address,
        readOnly ? KVM_MEM_READONLY : 0,
      );
    }
    let cycle: PowerCycle | undefined;
    const { growth } = plan;
    if (growth !== undefined) {
      growth.powerOn(vm, resources.memorySlots(growth.slots));
      stack.defer(() => growth.powerOff(cycle?.isAsleep ?? false));
    }
    vm.createIrqchip();
    vm.createPit();
    const vcpus = cpuid.map((entries, id) => {
      const vcpu = new Vcpu(vm.createVcpu(id));
      initializeVcpu(vcpu, entries);
      return vcpu;
    });
    cycle = new PowerCycle(plan, vm, vcpus, resources, stack, events, wakeUp);
    const [first] = vcpus;
    if (first === undefined) throw new InternalError('a machine without vCPUs');
    // The vCPU threads come up while the guest is being loaded.
    if (wakeUp === undefined) {
      const { maxCpus, ...booted } = plan;
      const { state } = await loadGuest({
        ...booted,
        ...(maxCpus === undefined ? {} : { maxCpus }),
        protocol: plan.bootProtocol,
        physicalAddressBits: addressBits,
        mmioDevices: cycle.#board.windows,
        fixedSlots: cycle.#fixedSlots(),
        viot: cycle.#viot,
      });
      applyEntry(first, state);
    } else {
      cycle.#restore(wakeUp);
      enterRealMode(first, wakeUp.vector);
    }
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
    events: CycleEvents,
    wakeUp: WakeUp | undefined,
  ) {
    this.#plan = plan;
    this.#vm = vm;
    this.#resources = resources;
    this.#events = events;
    const { observer, serial, memory } = plan;
    const { collector, check } = observer;
    const rtcTimer = stack.use(new Timerfd());
    const all = plan.devices.all;
    const devices = all.map((device) => {
      // A guest that is woken has its devices where they were.
      resources.nextSlot = wakeUp?.slots.get(device);
      return device.plan(resources);
    });
    all.forEach((device, index) => {
      const slot = slotOf(devices[index]);
      if (slot !== undefined) this.#slots.set(device, slot);
    });
    this.#viot = plan.iommu?.powerOn();
    const boardPlan: BoardPlan = {
      buffer: SharedState.allocate(Board.stateSize(devices.length)),
      vmFd: vm.fd,
      cpus: vcpus.length,
      ejectableCpus:
        plan.maxCpus === undefined ? [] : vcpus.slice(1, plan.cpus).map(({ share }) => share.id),
      rtcTimer: rtcTimer.fd,
      devices,
      numbers: all.map((device) => plan.devices.numberOf(device)),
      ejectable: all.flatMap((device) => (device.removable ? (this.#slots.get(device) ?? []) : [])),
      routes: resources.routes,
      check,
    };
    const board = new Board(boardPlan, (message) => this.#message(message), collector?.main);
    this.#board = board;
    const rtcWatch = new LoopWatch(rtcTimer.fd, LOOP_READABLE, () => {
      if (!rtcTimer.drain()) return;
      board.state.lock.with(() => board.rtc.expire());
      if ((board.pm1.pending & PM1_RTC) !== 0) events.wakeEvent(PM1_RTC);
    });
    stack.defer(() => rtcWatch.close());
    sys.check(board.reset(), 'KVM_SET_GSI_ROUTING', 'the VM');
    observer.noteClock(vm);
    stack.defer(() => observer.noteClock(vm));
    stack.defer(() => unplugAll(plan.devices.all, plan.iommu?.device));
    stack.defer(() => {
      for (const timer of this.#lingering) clearTimeout(timer);
    });
    for (const device of all) device.plug(board, memory.share);
    serial.connect(board.serial);
    stack.defer(() => serial.connect(undefined));
    const threadEvents: VcpuThreadEvents = {
      message: (message) => this.#message(message),
      crashed: (error) =>
        events.ended({
          reason: 'internal-error',
          detail: `a vCPU thread crashed: ${error.message}`,
        }),
    };
    const trace = (thread: string): SharedArrayBuffer | undefined => collector?.ring(thread);
    const { cpus } = plan;
    this.#threads = new VcpuThreads(
      boardPlan,
      board,
      vcpus,
      memory.share,
      threadEvents,
      trace,
      cpus,
    );
    stack.defer(() => this.#threads.stop());
  }

  /** Quiesces vCPUs and devices. */
  async pause(): Promise<void> {
    await this.#threads.pause();
    this.#clock = this.#vm.clock()?.nanoseconds;
    for (const device of this.#plan.devices.all) await device.pause();
  }

  async resume(): Promise<void> {
    for (const device of this.#plan.devices.all) await device.resume();
    this.#threads.resume();
  }

  /**
   * Plugs in a device of the machine that came after power-on, and notifies the guest.
   * @throws UsageError when there is no room for it
   */
  plugIn(device: MachineDevice): void {
    const resources = this.#resources.late();
    const slot = resources.slot();
    try {
      const plan = device.plan(resources);
      const number = this.#plan.devices.numberOf(device);
      const { routes } = this.#resources;
      this.#board.plug(slot, number, plan, routes, (late) => this.#threads.announce(late));
    } catch (error) {
      resources.close();
      this.#resources.giveBackSlot(slot);
      throw error;
    }
    this.#late.set(device, resources);
    this.#slots.set(device, slot);
    device.plug(this.#board, this.#plan.memory.share);
    this.#board.announce(slot);
  }

  /** The vCPUs that the guest has, by their ids. */
  get cpus(): number[] {
    return this.#threads.present;
  }

  /** Gives the guest another vCPU. */
  addCpu(cpu: number): void {
    this.#threads.add(cpu);
    this.#board.announceCpu(cpu);
  }

  /** Asks the guest to eject a vCPU, or withdraws that. */
  askBackCpu(cpu: number, wanted: boolean): void {
    this.#board.askBackCpu(cpu, wanted);
  }

  /** Ends the thread of a vCPU that was ejected. */
  async removeCpu(cpu: number): Promise<void> {
    await this.#threads.remove(cpu);
  }

  /** Asks the guest to eject a device, or withdraws that. */
  askBack(device: MachineDevice, wanted: boolean): void {
    const slot = this.#slots.get(device);
    if (slot !== undefined) this.#board.askBack(slot, wanted);
  }

  /** Hides a device from configuration space, as if it had been pulled out; it is served until `pullOut`. */
  hide(device: MachineDevice): void {
    const slot = this.#slots.get(device);
    if (slot !== undefined) this.#board.hide(slot);
  }

  /**
   * Takes a device out of the board, and gives back what it used there.
   * @param lingering milliseconds for which its registers can still be read. Default 0
   */
  async pullOut(device: MachineDevice, lingering = 0): Promise<void> {
    const slot = this.#slots.get(device);
    const late = this.#late.get(device);
    this.#slots.delete(device);
    this.#late.delete(device);
    const empty = (): void => {
      if (slot === undefined) return;
      this.#board.unplug(slot);
      late?.close();
      this.#resources.giveBackSlot(slot);
    };
    let isUnplugged = false;
    try {
      await device.unplug();
      isUnplugged = true;
    } finally {
      if (isUnplugged && lingering > 0) this.#linger(empty, lingering);
      else empty();
    }
  }

  #linger(then: () => void, milliseconds: number): void {
    const timer = setTimeout(() => {
      this.#lingering.delete(timer);
      then();
    }, milliseconds);
    timer.unref();
    this.#lingering.add(timer);
  }

  /** Presses a button. @param button PM1_POWER_BUTTON or PM1_SLEEP_BUTTON */
  press(button: number): void {
    this.#board.pm1.raise(button);
    this.#events.wakeEvent(button);
  }

  /** Changes the generation ID, and notifies the guest. @param id 16 bytes */
  renewGeneration(id: Uint8Array): void {
    setGenerationId(this.#plan.memory, id);
    this.#board.events.raise(GED_GENERATION);
  }

  /** What the next cycle needs to wake the guest, which sleeps; undefined when it does not say where. */
  wakeUp(cause: number): WakeUp | undefined {
    const vector = wakingVector(this.#plan.memory);
    if (vector === 0 || vector >= HIGH_MEMORY_GPA) return undefined;
    this.isAsleep = true;
    const rtc = this.#board.state.lock.with(() => this.#board.rtc.save());
    return { vector, cause, clock: this.#clock, rtc, slots: this.#slots };
  }

  #restore({ clock, cause, rtc }: WakeUp): void {
    if (clock !== undefined) this.#vm.setClock(clock);
    this.#board.state.lock.with(() => {
      this.#board.rtc.restore(rtc);
      this.#board.pm1.note(PM1_WAKE | cause);
    });
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
        if (message.event === 'suspend') this.#events.suspended();
        else this.#events.ended({ reason: message.event });
        return;
      case 'ended':
        this.#vcpuEnded(message);
        return;
      case 'ejected':
        this.#ejected();
        return;
      case 'cpus-ejected':
        for (const cpu of this.#board.takeEjectedCpus()) this.#events.cpuEjected(cpu);
        return;
      case 'paused':
        return;
      default:
        this.#plan.devices.numbered(message.device)?.message(message);
    }
  }

  #ejected(): void {
    const slots = this.#board.takeEjected();
    for (const [device, slot] of this.#slots) {
      if (slots.includes(slot)) this.#events.ejected(device);
    }
  }

  /** The slots whose devices stay. */
  #fixedSlots(): number[] {
    return [...this.#slots].flatMap(([{ removable }, slot]) => (removable ? [] : [slot]));
  }

  #vcpuEnded({ end, vcpu, summary, dump }: Extract<VcpuMessage, { kind: 'ended' }>): void {
    if (end === 'stopped') return;
    const detail = [summary, dump].filter((part) => part !== undefined).join('\n');
    const where = `vCPU ${vcpu}: ${detail}`;
    if (end === 'unhandled' || end === 'failed') {
      this.#events.ended({ reason: 'internal-error', detail: where });
    } else if (end === 'triple-fault') {
      this.#events.ended({ reason: end, detail: where });
    } else {
      this.#events.ended({ reason: end });
    }
  }
}

/** Its slot on the PCI bus. */
function slotOf(planned: DevicePlan | undefined): number | undefined {
  return planned === undefined || planned.model === 'virtio-mmio' ? undefined : planned.plan.slot;
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

function guestCpuids({ kvm, cpus: present, maxCpus: cpus = present, hideCpuFeatures }: CyclePlan) {
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
