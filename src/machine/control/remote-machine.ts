/** A machine in another process, over its control socket. */
import { Duplex } from 'node:stream';
import { AgentClient, agentLost } from '../../agent/client.ts';
import { type Deferred, defer } from '../../agent/command.ts';
import { inTime } from '../../host/deadline.ts';
import { type NodeVmmError, UsageError } from '../../host/errors.ts';
import type { MachineDeviceOptions } from '../../virtio/device-type.ts';
import type { TraceSummary } from '../../virtio/observe/trace/trace-collector.ts';
import { type BalloonStatistics, MachineBalloon } from '../balloon.ts';
import type { DatapathName } from '../devices/queue-service.ts';
import { guestEnded } from '../guest-agent.ts';
import type { RemovalOptions } from '../hotplug.ts';
import type { InspectFilter, MachineInspection } from '../inspect.ts';
import { type DroppedOutput, Machine, type MachineMetrics, type MachineState } from '../machine.ts';
import type { RuleBreach } from '../machine-observer.ts';
import type { MemoryState } from '../memory-size.ts';
import type { MachineExit } from '../options.ts';
import { withAbsolutePaths } from '../resolve-options.ts';
import type { VirtualMachine } from '../virtual-machine.ts';
import { type ControlAddress, openStream, order, question, shown, socketOf } from './client.ts';
import { type ControlEvent, type ControlOrder, linesOf, type MachineStatus } from './protocol.ts';

/** Bytes of the longest event: a breach with a dump of its ring. */
const EVENT_MAX = 2 ** 24;
/** When the agent ends, usually its machine does: how long that may take to be reported. */
const END_GRACE_MS = 2000;

/** A stream of a machine that is being opened; emits `connect` when it is. */
class RemoteStream extends Duplex {
  readonly #open: () => Promise<Duplex>;
  #inner: Duplex | undefined;

  constructor(open: () => Promise<Duplex>) {
    super();
    this.#open = open;
  }

  override _construct(done: (error?: Error | null) => void): void {
    this.#open().then((inner) => {
      this.#inner = inner;
      inner.on('data', (bytes: Buffer) => {
        if (!this.push(bytes)) inner.pause();
      });
      inner.on('end', () => this.push(null));
      inner.on('error', () => {});
      inner.on('close', () => this.destroy());
      inner.pause();
      done();
      this.emit('connect');
    }, done);
  }

  override _read(): void {
    this.#inner?.resume();
  }

  override _write(
    chunk: Buffer,
    _encoding: BufferEncoding,
    done: (error?: Error | null) => void,
  ): void {
    this.#inner?.write(chunk, done);
  }

  override _final(done: (error?: Error | null) => void): void {
    this.#inner?.end(() => done());
  }

  override _destroy(error: Error | null, done: (error: Error | null) => void): void {
    this.#inner?.destroy();
    done(error);
  }
}

/** What it does and reports is done in the other process; closing it leaves the machine as it is. */
export class RemoteMachine extends Machine {
  override readonly balloon = new MachineBalloon(
    {
      state: () => this.#status.balloon,
      setTarget: (target) => this.#order({ call: 'balloon', target }),
      statistics: async () =>
        (await question(this.#address, { call: 'balloonStatistics' })) as BalloonStatistics,
    },
    (problem) => this.emit('log', problem),
  );
  readonly #address: ControlAddress;
  readonly #events: Duplex;
  readonly #breaches: RuleBreach[] = [];
  readonly #exit: Deferred<MachineExit> = defer();
  #status: MachineStatus;
  #disposed = false;
  #agent: AgentClient | undefined;
  #console: Duplex | undefined;
  #serial: Duplex | undefined;

  /** @throws as `ask` */
  static async attach(address: ControlAddress): Promise<RemoteMachine> {
    const { connection, status } = await openStream(address, 'events');
    return new RemoteMachine(address, connection, status);
  }

  protected constructor(address: ControlAddress, events: Duplex, status: MachineStatus) {
    super();
    this.#address = address;
    this.#events = events;
    this.#status = status;
    if (status.state === 'ended') {
      this.#exit.resolve({ reason: 'stopped', detail: 'it had ended before' });
    }
    void this.#follow();
  }

  override get console(): Duplex {
    this.#console ??= this.#openConsole('console');
    return this.#console;
  }

  override get serial(): Duplex {
    this.#serial ??= this.#openConsole('serial');
    return this.#serial;
  }

  override get state(): MachineState {
    return this.#disposed ? 'disposed' : this.#status.state;
  }

  override get datapaths(): ReadonlyMap<string, DatapathName> {
    return new Map(Object.entries(this.#status.datapaths));
  }

  override get memory(): MemoryState {
    return this.#status.memory;
  }

  override async setMemory(size: number): Promise<void> {
    await this.#order({ call: 'memory', size });
  }

  override get droppedOutput(): DroppedOutput {
    return this.#status.droppedOutput;
  }

  /** Those since this program attached to it. */
  override get breaches(): readonly RuleBreach[] {
    return this.#breaches;
  }

  override async start(): Promise<void> {
    await this.#order({ call: 'start' });
  }

  override wait(): Promise<MachineExit> {
    return this.#exit.promise;
  }

  override async pause(): Promise<void> {
    await this.#order({ call: 'pause' });
  }

  override async resume(): Promise<void> {
    await this.#order({ call: 'resume' });
  }

  override async pressPowerButton(): Promise<void> {
    await this.#order({ call: 'pressPowerButton' });
  }

  override async pressSleepButton(): Promise<void> {
    await this.#order({ call: 'pressSleepButton' });
  }

  override async wake(): Promise<void> {
    await this.#order({ call: 'wake' });
  }

  override async renewGeneration(): Promise<void> {
    await this.#order({ call: 'renewGeneration' });
  }

  override async stop(): Promise<void> {
    if (this.state === 'ended' || this.#disposed) return;
    await this.#order({ call: 'stop' });
  }

  override connect(port: number): Duplex {
    return new RemoteStream(
      async () => (await openStream(this.#address, 'vsock', port)).connection,
    );
  }

  override async moveDatapath(device: string, datapath: DatapathName): Promise<void> {
    await this.#order({ call: 'move', device, datapath });
  }

  override async setLink(device: string, up: boolean): Promise<void> {
    await this.#order({ call: 'link', device, up });
  }

  override async resizeDisk(device: string, bytes?: number): Promise<void> {
    await this.#order({ call: 'resizeDisk', device, ...(bytes === undefined ? {} : { bytes }) });
  }

  override async addDevice(device: MachineDeviceOptions): Promise<string> {
    const request = { call: 'addDevice', device: withAbsolutePaths(device) } as const;
    return (await question(this.#address, request)) as string;
  }

  override async removeDevice(device: string, options: RemovalOptions = {}): Promise<void> {
    await this.#order({ call: 'removeDevice', device, ...options });
  }

  override async setCpus(
    count: number,
    options: Pick<RemovalOptions, 'timeout'> = {},
  ): Promise<void> {
    await this.#order({ call: 'setCpus', count, ...options });
  }

  override async inspect(filter: InspectFilter = {}): Promise<MachineInspection> {
    return (await question(this.#address, { call: 'inspect', ...filter })) as MachineInspection;
  }

  override async holdQueue(device: string, queue: string): Promise<void> {
    await this.#order({ call: 'hold', device, queue });
  }

  override async stepQueue(device: string, queue: string): Promise<void> {
    await this.#order({ call: 'step', device, queue });
  }

  override async releaseQueue(device: string, queue: string): Promise<void> {
    await this.#order({ call: 'release', device, queue });
  }

  override async reloadDevice(device: string): Promise<void> {
    await this.#order({ call: 'reload', device });
  }

  override resizeConsole(columns: number, rows: number): void {
    this.#order({ call: 'resize', columns, rows }).catch(() => {});
  }

  override async metrics(): Promise<MachineMetrics> {
    return (await question(this.#address, { call: 'metrics' })) as MachineMetrics;
  }

  override async traceSummary(): Promise<TraceSummary | undefined> {
    const summary = await question(this.#address, { call: 'traceSummary' });
    return (summary ?? undefined) as TraceSummary | undefined;
  }

  override async close(): Promise<void> {
    if (this.#disposed) return;
    this.#disposed = true;
    this.#agent?.close();
    for (const stream of [this.#console, this.#serial, this.#events]) stream?.destroy();
    this.#exit.resolve({ reason: 'stopped', detail: 'this program detached from it' });
  }

  protected override connectAgent(): AgentClient {
    if (this.state === 'ended' || this.#disposed) {
      throw new UsageError('E_STATE', 'the machine is not running', 'start a new one');
    }
    if (this.#agent === undefined || this.#agent.ended) {
      const stream = new RemoteStream(
        async () => (await openStream(this.#address, 'agent')).connection,
      );
      this.#agent = new AgentClient(stream, {
        shared: true,
        whyEnded: (cause) => this.#whyEnded(cause),
      });
    }
    return this.#agent;
  }

  async #order(request: ControlOrder): Promise<void> {
    this.#status = await order(this.#address, request);
  }

  #openConsole(name: 'console' | 'serial'): Duplex {
    const stream = new RemoteStream(async () => (await openStream(this.#address, name)).connection);
    // As that of a machine in this process, it ends with it, whatever the reason.
    stream.on('error', () => {});
    return stream;
  }

  async #follow(): Promise<void> {
    try {
      for await (const line of linesOf(this.#events, EVENT_MAX)) {
        this.#take(JSON.parse(line, shown) as ControlEvent);
      }
    } catch {
      // Lost, as below.
    }
    if (this.#disposed) return;
    this.#ended({ reason: 'internal-error', detail: `the process of ${this.#address.name} ended` });
  }

  #take({ event, values, status }: ControlEvent): void {
    this.#status = status;
    if (event === 'breach') this.#breaches.push(...(values as [RuleBreach]));
    if (event === 'exit') this.#exit.resolve(...(values as [MachineExit]));
    this.emit(event, ...values);
  }

  /** Its process reports nothing any more. */
  #ended(exit: MachineExit): void {
    if (this.#status.state === 'ended') return;
    this.#status = { ...this.#status, state: 'ended' };
    this.#exit.resolve(exit);
    this.emit('exit', exit);
  }

  async #whyEnded(cause?: Error): Promise<NodeVmmError> {
    const exit = await inTime(this.#exit.promise, END_GRACE_MS, () => undefined);
    return exit === undefined ? agentLost(cause) : guestEnded(exit);
  }
}

/**
 * Attaches to a machine that runs in another process of this user: by `nodevmm run`, or by a program that gave
 * it a `name`. `close` detaches from it; `stop` stops it.
 * @param name its `--name` or option `name`, else its process id
 * @throws UsageError when no machine of that name runs (E_NAME)
 */
export async function connectMachine(name: string): Promise<VirtualMachine> {
  return await RemoteMachine.attach(socketOf(name));
}
