/** What a virtual machine offers its program, wherever it runs. */
import { EventEmitter } from 'node:events';
import type { Duplex } from 'node:stream';
import type { AgentClient } from '../agent/client.ts';
import type { GuestProcess } from '../agent/command.ts';
import type { CommandLine, ExecOptions, SpawnOptions } from '../agent/command-options.ts';
import type { ExecResult } from '../agent/exec.ts';
import { type ForwardedPorts, PortForward } from '../agent/forward.ts';
import { GuestFiles } from '../agent/guest-files.ts';
import type { MachineDeviceOptions } from '../virtio/device-type.ts';
import type { TraceSummary } from '../virtio/observe/trace/trace-collector.ts';
import type { MachineBalloon } from './balloon.ts';
import type { DatapathName } from './devices/queue-service.ts';
import type { RemovalOptions } from './hotplug.ts';
import type { InspectFilter, MachineInspection } from './inspect.ts';
import type { RuleBreach } from './machine-observer.ts';
import type { MemoryState } from './memory-size.ts';
import type { MachineExit } from './options.ts';

/** Events of a machine, by name. */
export interface VirtualMachineEvents {
  /** The run ended: by the guest, by `stop`, or because something failed. */
  exit: [MachineExit];
  /** One line for the user, e.g. that a driver broke a rule. */
  log: [string];
  /** The guest rebooted and runs again. */
  reboot: [];
  /** A driver or a device broke a rule of virtio (option `check`); `log` reports it, too. */
  breach: [RuleBreach];
  /** The machine's state changed. */
  state: [MachineState];
}

/** The state of a machine between its creation and its disposal; `suspended`: its guest sleeps in RAM (S3). */
export type MachineState =
  | 'created'
  | 'starting'
  | 'running'
  | 'paused'
  | 'suspended'
  | 'ended'
  | 'disposed';

/** Bytes of guest output that were dropped unread. */
export interface DroppedOutput {
  readonly console: number;
  readonly serial: number;
}

/** What a machine counted since power-on, as JSON carries it. */
export interface MachineMetrics {
  readonly state: MachineState;
  /** Exits to userspace of all vCPUs by cause (KVM API 5: `KVM_EXIT_IO`); those that happened. */
  readonly exits: Readonly<Record<string, number>>;
  /**
   * KVM's counters for all vCPUs by KVM's own names, such as `exits` and `halt_exits` (KVM API 4.133).
   * Empty while no guest runs, and before Linux 5.14.
   */
  readonly kvm: Readonly<Record<string, number>>;
  readonly droppedOutput: DroppedOutput;
  /** Rules of virtio that were broken (option `check`). */
  readonly breaches: number;
}

/** The members of `VirtualMachine`; each place where a machine can run has its own class. */
export abstract class Machine
  extends EventEmitter<VirtualMachineEvents>
  implements AsyncDisposable
{
  /**
   * The guest's virtio console, hvc0: write to type, read what it prints. The guest never waits for
   * a reader: beyond 1 MiB of unread output, more is dropped (see `droppedOutput`), and a
   * line in the stream reports how much.
   */
  abstract readonly console: Duplex;
  /** The guest's first serial port, ttyS0; read or dropped as `console`. */
  abstract readonly serial: Duplex;

  /** Its memory balloon (option `balloon`). */
  abstract readonly balloon: MachineBalloon;

  /** The guest's files, through its agent, in the style of node:fs/promises. */
  readonly files: GuestFiles = new GuestFiles(this);

  abstract get state(): MachineState;

  /** Which datapath serves each virtio device's queues, by the device's name. */
  abstract get datapaths(): ReadonlyMap<string, DatapathName>;

  /** The guest's RAM; of a machine in another process, as of its last answer. */
  abstract get memory(): MemoryState;

  /** Bytes of guest output that were dropped unread. */
  abstract get droppedOutput(): DroppedOutput;

  /** The rules of virtio that were broken so far; empty without the option `check`. */
  abstract get breaches(): readonly RuleBreach[];

  /** Loads the guest and lets it run. @throws UsageError when it cannot be loaded */
  abstract start(): Promise<void>;

  /** Resolves when the run has ended, with how it ended. */
  abstract wait(): Promise<MachineExit>;

  /** Quiesces vCPUs and devices; the guest notices only that time has passed. */
  abstract pause(): Promise<void>;

  /** Resumes where `pause` stopped. */
  abstract resume(): Promise<void>;

  /**
   * Presses the power button (ACPI). Linux powers off when a program in it listens: systemd-logind,
   * acpid, or the init of nodevmm's own guests; else nothing happens. It wakes a guest that sleeps.
   * @throws UsageError when the machine does not run
   */
  abstract pressPowerButton(): Promise<void>;

  /**
   * Presses the sleep button (ACPI). Linux suspends when a program in it listens, such as systemd-logind. It wakes a
   * guest that sleeps, also one that is suspended to idle (`echo freeze >/sys/power/state`).
   * @throws UsageError when the machine does not run
   */
  abstract pressSleepButton(): Promise<void>;

  /**
   * Wakes a guest that sleeps in RAM (S3, `echo mem >/sys/power/state`), as its clock's alarm, console input, and the
   * buttons do.
   * @throws UsageError when the machine is not suspended
   */
  abstract wake(): Promise<void>;

  /**
   * Gives the machine another generation ID (vmgenid) and notifies the guest, which then reseeds its random number
   * generator: for a machine that is a copy of another one.
   * @throws UsageError when the machine does not run
   */
  abstract renewGeneration(): Promise<void>;

  /** Ends the run as if the power failed. Does nothing when it has ended. */
  abstract stop(): Promise<void>;

  /** Stops the machine and releases everything: memory, files, taps, threads. */
  abstract close(): Promise<void>;

  /**
   * Switches a device's queues to another datapath, even while they are busy: each continues where it
   * stopped.
   * @param device its name: `net0`
   * @throws UsageError when there is no such device, or that datapath cannot serve it; HostError when
   *   the host fails. Everything is then as it was before.
   */
  abstract moveDatapath(device: string, datapath: DatapathName): Promise<void>;

  /**
   * Plugs in or unplugs the cable of a network interface, on both sides.
   * @param device its name: `net0`
   * @throws UsageError when there is no such network interface
   */
  abstract setLink(device: string, up: boolean): Promise<void>;

  /**
   * Grows a disk under its guest, which is notified; a file on the host grows along. Disks do not shrink.
   * @param device its name: `blk0`
   * @param bytes the new size. Absent: that which the file, or the host's block device, has by now
   * @throws UsageError when there is no such disk, or it cannot have that size (E_DISK_RESIZE); HostError when the
   *   host has no room
   */
  abstract resizeDisk(device: string, bytes?: number): Promise<void>;

  /**
   * Adds a device; a guest that runs is notified, and has it until it is removed, over reboots as well (docs/hotplug.md).
   * @param device as in `MachineOptions`, exactly one: `{ disks: [{ path: 'data.raw' }] }`
   * @returns its name: `blk1`
   * @throws UsageError or HostError when it cannot be made, or a running machine does not get such a device (E_HOTPLUG)
   */
  abstract addDevice(device: MachineDeviceOptions): Promise<string>;

  /**
   * Removes a device: the guest is asked to give it up. Without a guest that is powered on, it goes at once.
   * @param device its name: `blk1`
   * @throws UsageError when there is no such device, or it stays as long as the machine (E_DEVICE); PeerError when the guest
   *   does not give it up in time (E_EJECT): it has the device then as before
   */
  abstract removeDevice(device: string, options?: RemovalOptions): Promise<void>;

  /**
   * Changes how many vCPUs the guest has. Others are added at once; those with the highest numbers are asked back.
   * @param count 1 to the option `maxCpus`
   * @param options how long the guest may take to give them up
   * @throws UsageError when the machine cannot have so many (E_CPUS); PeerError when the guest keeps some (E_EJECT)
   */
  abstract setCpus(count: number, options?: Pick<RemovalOptions, 'timeout'>): Promise<void>;

  /**
   * Asks the guest to have this much RAM (option `memoryDevice`). It plugs and unplugs memory in its own time: see
   * `memory.current`.
   * @param bytes from the option `memory` to `memoryDevice.max`, in whole 2 MiB more than `memory`
   * @throws UsageError (E_MEMORY) when it cannot be
   */
  abstract setMemory(bytes: number): Promise<void>;

  /** A snapshot of the virtio devices: registers, features, rings. Changes nothing. */
  abstract inspect(filter?: InspectFilter): Promise<MachineInspection>;

  /**
   * Holds a queue: its device takes no more buffers from it, until `stepQueue` or `releaseQueue`. A
   * hold outlives resets and reboots.
   * @param queue its name or index
   * @throws UsageError when there is no such queue, or userspace does not serve it (E_HELD)
   */
  abstract holdQueue(device: string, queue: string): Promise<void>;

  /** Lets the device take one more buffer from a queue, and holds it; otherwise as `holdQueue`. */
  abstract stepQueue(device: string, queue: string): Promise<void>;

  /** Releases a held queue. @throws as `holdQueue` */
  abstract releaseQueue(device: string, queue: string): Promise<void>;

  /**
   * Serves a device of your own with its file's current code. The driver is asked to reset the
   * device; if it does not, its queues continue to be served.
   * @param device its name: `own0`
   * @throws UsageError when it has no file, or the file is unusable: everything is then as it was before
   */
  abstract reloadDevice(device: string): Promise<void>;

  /** Sets the guest's idea of the size of the terminal that shows its console. */
  abstract resizeConsole(columns: number, rows: number): void;

  /** What the machine counted since power-on. */
  abstract metrics(): Promise<MachineMetrics>;

  /** The trace so far; undefined without the option `trace`. */
  abstract traceSummary(): Promise<TraceSummary | undefined>;

  /** The conversation with the guest's agent, or with the next one. @throws UsageError without one */
  protected abstract connectAgent(): AgentClient;

  /** Resolves when the guest's agent answers. */
  async ready(): Promise<void> {
    await this.connectAgent().ready();
  }

  /**
   * Starts a command in the guest through its agent; waits for the agent if it is not up yet.
   * @throws UsageError when an option is wrong
   */
  spawn(command: CommandLine, options: SpawnOptions = {}): GuestProcess {
    return this.connectAgent().spawn(command, options);
  }

  /**
   * Runs a command in the guest to its end.
   * @throws UsageError when it cannot be started, or writes more than `maxBuffer` (E_MAX_BUFFER);
   *   PeerError when it takes longer than `timeout` (E_TIMEOUT), or the guest (E_GUEST_ENDED) or its agent
   *   (E_AGENT_*) ends before; AbortError. Errors after its start have a PartialOutput.
   */
  async exec(command: CommandLine, options: ExecOptions = {}): Promise<ExecResult> {
    return await this.connectAgent().exec(command, options);
  }

  /**
   * Connects to a vsock port of the guest through the machine's socket device (option `vsock`); emits
   * `connect`, or `error` with ECONNREFUSED when nothing listens there.
   * @throws UsageError (E_VSOCK) without a device; of a machine in another process, as the event
   */
  abstract connect(port: number): Duplex;

  /**
   * Forwards ports of this host's 127.0.0.1 to the guest, through its agent, until it is closed or the
   * machine ends: `{ 8080: 80 }`; port 0 is a free one. No network device is needed.
   * @throws UsageError (E_FORWARD) when a port or target is none, or cannot be listened on
   */
  async forward(ports: ForwardedPorts): Promise<PortForward> {
    this.connectAgent();
    return await PortForward.open(this, ports, this.wait());
  }

  /** As `close`. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
