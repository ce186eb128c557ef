/**
 * The machine's registers, assembled: buses, platform devices and all others over the
 * state buffer. Every thread builds its own from the same plan; all show the same registers.
 */
import { AddressSpace } from '../../bus/address-space.ts';
import { InterruptLines } from '../../bus/interrupt-controller.ts';
import { monotonicMs } from '../../host/clock.ts';
import { UsageError } from '../../host/errors.ts';
import { armTimerfd } from '../../host/fd.ts';
import { FIRST_MSI_GSI, GsiRouting } from '../../kvm/gsi-routing.ts';
import { createHostBridge, PciBus } from '../../pci/bus.ts';
import { IntxLines } from '../../pci/intx.ts';
import { HOTPLUG_SIZE, HotplugRegisters } from '../../platform/hotplug-registers.ts';
import * as layout from '../../platform/layout.ts';
import { PM1_RTC, Pm1 } from '../../platform/pm1.ts';
import {
  createKeyboardController,
  createPvpanic,
  createResetRegister,
  EventDevice,
  GED_CPU_HOTPLUG,
  GED_PCI_HOTPLUG,
  type PowerEvent,
} from '../../platform/power.ts';
import { Rtc } from '../../platform/rtc.ts';
import { Serial16550 } from '../../platform/serial-16550.ts';
import { SharedState, type StatePart } from '../../state/shared-state.ts';
import { VcpuControl } from '../../state/vcpu-control.ts';
import type { TraceWriter } from '../../virtio/observe/trace/trace-ring.ts';
import {
  type BoardContext,
  type BoardDevice,
  createBoardDevice,
  type DeviceAddress,
  type DeviceMessage,
  type DeviceModel,
  type DevicePlan,
} from './board-devices.ts';
import { KvmInterrupts } from './kvm-interrupts.ts';
import { LateDevices, type LatePlan } from './late-devices.ts';

const SERIAL_PORTS = 8;
/** State that a board takes besides its devices, and an upper bound of what one device takes. */
const BOARD_STATE = 0x4_0000;
const DEVICE_STATE = 0x8000;
/** Message-signaled interrupts of devices that come after power-on, all together. */
const LATE_ROUTES = 1024;

/** All that a thread needs to build the board; a plain, cloneable message. */
export interface BoardPlan {
  readonly buffer: SharedArrayBuffer;
  readonly vmFd: number;
  readonly cpus: number;
  /** Those of them that may be ejected, by their ids. Default none. */
  readonly ejectableCpus?: readonly number[];
  /** A timerfd for the clock's interrupts; without one it has none. */
  readonly rtcTimer?: number;
  readonly devices: readonly DevicePlan[];
  /** Their numbers among the machine's devices. Default: 0 and up. */
  readonly numbers?: readonly number[];
  /** The slots whose devices the guest may eject. Default none. */
  readonly ejectable?: readonly number[];
  /** Message-signaled interrupts of all devices. Default 0. */
  readonly routes?: number;
  /** Check the rules of virtio. */
  readonly check?: boolean;
}

/** What the guest did that the main thread must act on. */
export type BoardMessage =
  | DeviceMessage
  | { readonly kind: 'serial-output' }
  /** Devices were ejected: see `Board.takeEjected`. At most one such message is unanswered. */
  | { readonly kind: 'ejected' }
  /** CPUs were ejected: see `Board.takeEjectedCpus`. Likewise. */
  | { readonly kind: 'cpus-ejected' }
  | { readonly kind: 'power'; readonly event: PowerEvent };

/** The registers of a machine, as one thread sees them. */
export class Board {
  readonly state: SharedState;
  readonly control: VcpuControl;
  readonly serial: Serial16550;
  readonly rtc: Rtc;
  readonly pm1: Pm1;
  readonly events: EventDevice;
  /** Ends the power cycle, or has the machine sleep; once. */
  readonly power: (event: PowerEvent) => void;
  readonly #devices: readonly BoardDevice[];
  readonly #late: LateDevices;
  readonly #hotplug: HotplugRegisters;
  readonly #cpuHotplug: HotplugRegisters;
  readonly #renew: () => void;
  readonly #ports = new AddressSpace();
  readonly #memory = new AddressSpace();
  readonly #bus: PciBus;
  readonly #routing: GsiRouting;
  readonly #plan: BoardPlan;

  /** Bytes of state that a machine with these devices needs. */
  static stateSize(devices: number): number {
    return BOARD_STATE + (devices + layout.PCI_SLOTS) * DEVICE_STATE;
  }

  /** The devices that no bus enumerates: the guest is given their addresses. */
  get windows(): readonly Extract<DeviceAddress, { kind: 'window' }>[] {
    return this.#devices.flatMap(({ address }) => (address.kind === 'window' ? [address] : []));
  }

  get vmFd(): number {
    return this.#plan.vmFd;
  }

  /** The device built from a plan, which must be one of this board's. */
  device<M extends DeviceModel>(plan: DevicePlan<M>): BoardDevice<M> {
    const index = this.#plan.devices.indexOf(plan as DevicePlan);
    return (this.#devices[index] ?? this.#late.find(plan as DevicePlan)) as BoardDevice<M>;
  }

  /** GSI of the MSI route with the given number. */
  static msiGsi(route: number): number {
    return FIRST_MSI_GSI + route;
  }

  /**
   * @param post carries a message to the main thread
   * @param tracer of this thread; absent: driver activity here is not traced
   * @param receive takes the next plan that the main thread announced, in the other threads
   */
  constructor(
    plan: BoardPlan,
    post: (message: BoardMessage) => void,
    tracer?: TraceWriter,
    receive: () => LatePlan | undefined = () => undefined,
  ) {
    this.#plan = plan;
    this.state = new SharedState(plan.buffer);
    const { state } = this;
    this.control = new VcpuControl(state, plan.cpus);
    const routes = (plan.routes ?? 0) + LATE_ROUTES;
    const table = state.bytes(GsiRouting.bytes(routes));
    this.#routing = new GsiRouting(
      new DataView(table.buffer, table.byteOffset, table.length),
      routes,
    );
    const interrupts = new KvmInterrupts(plan.vmFd, this.#routing, state.lock);
    this.serial = new Serial16550(state, interrupts, layout.COM1_GSI, () =>
      post({ kind: 'serial-output' }),
    );
    const ended = state.words(1);
    // Any of them ends the cycle: the first one counts, however many more the guest requests.
    this.power = (event) => {
      if (ended[0] === 1) return;
      ended[0] = 1;
      post({ kind: 'power', event });
    };
    this.pm1 = new Pm1(state, interrupts, this.power);
    this.rtc = new Rtc(state, {
      setLine: (gsi, level) => interrupts.setLine(gsi, level),
      wallMs: () => Date.now(),
      monotonicMs,
      arm: (delayMs) => {
        if (plan.rtcTimer !== undefined) armTimerfd(plan.rtcTimer, timerNs(delayMs));
      },
      rung: () => this.pm1.note(PM1_RTC),
    });
    this.events = new EventDevice(state, interrupts);
    this.#bus = new PciBus(state, this.#ports, this.#memory);
    const intx = new IntxLines(
      state,
      interrupts,
      layout.PCI_INTX_GSI_BASE,
      layout.PCI_INTX_GSI_COUNT,
    );
    this.#bus.add(0, createHostBridge(state, interrupts));
    const lines = new InterruptLines(
      state,
      interrupts,
      layout.VIRTIO_MMIO_GSI_BASE,
      layout.VIRTIO_MMIO_GSI_COUNT,
    );
    const check = plan.check ?? false;
    const { vmFd } = plan;
    const context: BoardContext = { state, vmFd, interrupts, intx, lines, check, tracer };
    this.#devices = plan.devices.map((devicePlan, index) =>
      createBoardDevice(context, devicePlan, plan.numbers?.[index] ?? index, post),
    );
    const build = (late: LatePlan, part: StatePart): BoardDevice =>
      createBoardDevice(
        { ...context, state: new SharedState(plan.buffer, part) },
        late.plan,
        late.number,
        post,
      );
    this.#late = new LateDevices(state, DEVICE_STATE, this.#bus, build, receive);
    this.#renew = () => this.#late.renew();
    plan.devices.forEach((devicePlan, index) => {
      const device = this.#devices[index];
      if (device === undefined) return;
      const { address } = device;
      this.#put(address);
      if (address.kind === 'function') this.#late.first(address.slot, devicePlan, device);
    });
    this.#hotplug = new HotplugRegisters(state, (slots, isFirst) => {
      for (const slot of slots) this.#bus.answers(slot, false);
      if (isFirst) post({ kind: 'ejected' });
    });
    this.#cpuHotplug = new HotplugRegisters(state, (_cpus, isFirst) => {
      if (isFirst) post({ kind: 'cpus-ejected' });
    });
    this.#addPlatform();
  }

  /**
   * Resets every register to its power-on state. Once per VM, by the main thread, before vCPUs run.
   * @returns 0, or a negative errno when KVM rejected the interrupt routes (KVM_SET_GSI_ROUTING)
   */
  reset(): number {
    return this.state.lock.with(() => {
      this.#routing.initialize(this.#plan.routes ?? 0);
      const committed = this.#routing.commit(this.#plan.vmFd);
      this.#bus.reset();
      for (const { registers } of this.#devices) registers.reset();
      this.#late.reset();
      this.#hotplug.reset(this.#plan.ejectable);
      this.#cpuHotplug.reset(this.#plan.ejectableCpus);
      this.serial.reset();
      this.rtc.reset();
      this.pm1.reset();
      this.events.reset();
      return committed;
    });
  }

  /**
   * Puts a device into an empty slot of the PCI bus, without a word to the guest yet. By the main thread only.
   * @param routes message-signaled interrupts of all devices by now
   * @param announce sends the plan to all other threads
   */
  plug(
    slot: number,
    number: number,
    plan: DevicePlan,
    routes: number,
    announce: (late: LatePlan) => void,
  ): void {
    if (routes > (this.#plan.routes ?? 0) + LATE_ROUTES) {
      throw new UsageError(
        'E_HOTPLUG',
        `the devices added since power-on may have ${LATE_ROUTES} interrupts, together`,
        'use fewer queues',
      );
    }
    this.state.lock.with(() => {
      this.#routing.use(routes);
      this.#late.plug(slot, number, plan, announce);
    });
  }

  /** Notifies the guest of the device that a slot got. */
  announce(slot: number): void {
    this.state.lock.with(() => this.#hotplug.plugged(slot));
    this.events.raise(GED_PCI_HOTPLUG);
  }

  /** Asks the guest to eject the device in a slot, or withdraws that. */
  askBack(slot: number, wanted: boolean): void {
    this.state.lock.with(() =>
      wanted ? this.#hotplug.askBack(slot) : this.#hotplug.withdraw(slot),
    );
    if (wanted) this.events.raise(GED_PCI_HOTPLUG);
  }

  /** Hides the device in a slot from configuration space, as if it had been pulled out, and has the guest look there. */
  hide(slot: number): void {
    this.state.lock.with(() => {
      this.#bus.answers(slot, false);
      this.#hotplug.removed(slot, true);
    });
    this.events.raise(GED_PCI_HOTPLUG);
  }

  /** The slots whose devices the guest ejected since the last time. */
  takeEjected(): number[] {
    return this.state.lock.with(() => this.#hotplug.takeEjected());
  }

  /** Empties a slot of the PCI bus, whose device is served no longer. By the main thread only. */
  unplug(slot: number): void {
    this.state.lock.with(() => {
      this.#late.unplug(slot);
      this.#hotplug.removed(slot, false);
      this.#bus.answers(slot, true);
    });
  }

  /** Notifies the guest of a CPU that it got. */
  announceCpu(cpu: number): void {
    this.state.lock.with(() => this.#cpuHotplug.plugged(cpu));
    this.events.raise(GED_CPU_HOTPLUG);
  }

  /** Asks the guest to eject a CPU, or withdraws that. */
  askBackCpu(cpu: number, wanted: boolean): void {
    this.state.lock.with(() =>
      wanted ? this.#cpuHotplug.askBack(cpu) : this.#cpuHotplug.withdraw(cpu),
    );
    if (wanted) this.events.raise(GED_CPU_HOTPLUG);
  }

  /** The CPUs that the guest ejected since the last time. */
  takeEjectedCpus(): number[] {
    return this.state.lock.with(() => this.#cpuHotplug.takeEjected());
  }

  /** An access to an I/O port; takes the lock. */
  readPort(port: number, size: number): number {
    return this.#read(this.#ports, port, size);
  }

  writePort(port: number, size: number, value: number): void {
    this.#write(this.#ports, port, size, value);
  }

  /** An access to memory that is not RAM; takes the lock. */
  readMemory(address: number, size: number): number {
    return this.#read(this.#memory, address, size);
  }

  writeMemory(address: number, size: number, value: number): void {
    this.#write(this.#memory, address, size, value);
  }

  #read(space: AddressSpace, address: number, size: number): number {
    const { lock } = this.state;
    lock.acquire();
    try {
      this.#bus.refresh(this.#renew);
      return space.read(address, size);
    } finally {
      lock.release();
    }
  }

  #write(space: AddressSpace, address: number, size: number, value: number): void {
    const { lock } = this.state;
    lock.acquire();
    try {
      this.#bus.refresh(this.#renew);
      space.write(address, size, value);
    } finally {
      lock.release();
    }
  }

  #put(address: DeviceAddress): void {
    if (address.kind === 'function') this.#bus.add(address.slot, address.pciFunction);
    else this.#memory.add(address.address, address.size, address.region);
  }

  #addPlatform(): void {
    const { power } = this;
    this.#ports.add(layout.COM1_PORT, SERIAL_PORTS, this.serial);
    this.#ports.add(layout.CMOS_PORT, 2, this.rtc);
    this.#ports.add(
      layout.PM1_EVENT_PORT,
      layout.PM1_EVENT_SIZE + layout.PM1_CONTROL_SIZE,
      this.pm1,
    );
    this.#ports.add(layout.RESET_PORT, 1, createResetRegister(power));
    this.#ports.add(layout.GED_PORT, 1, this.events);
    this.#ports.add(layout.PCI_HOTPLUG_PORT, HOTPLUG_SIZE, this.#hotplug);
    this.#ports.add(layout.CPU_HOTPLUG_PORT, HOTPLUG_SIZE, this.#cpuHotplug);
    this.#ports.add(layout.I8042_COMMAND_PORT, 1, createKeyboardController(power));
    this.#ports.add(layout.PVPANIC_PORT, 1, createPvpanic(power));
    this.#ports.add(layout.PCI_CONFIG_ADDRESS_PORT, 8, this.#bus.mechanism1);
    this.#memory.add(layout.PCI_ECAM_BASE, layout.PCI_ECAM_SIZE, this.#bus.ecam);
  }
}

/** A delay in a timerfd's terms, where 0 disarms. */
function timerNs(delayMs: number): number {
  return delayMs === Infinity ? 0 : Math.max(1, Math.ceil(delayMs * 1e6));
}
