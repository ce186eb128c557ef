/** A machine that remembers what it was told. */
import type { ControlledMachine } from '../../src/control/server.ts';
import { UsageError } from '../../src/host/errors.ts';
import type { DatapathName } from '../../src/machine/devices/queue-service.ts';
import type { InspectFilter, MachineInspection } from '../../src/machine/inspect.ts';

export class FakeVm implements ControlledMachine {
  state = 'running';
  readonly datapaths = new Map<string, DatapathName>([['net0', 'userspace']]);
  presses = 0;
  listens = true;
  readonly links: string[] = [];
  readonly queueCalls: string[] = [];
  readonly filters: InspectFilter[] = [];
  exitCounts(): number[] {
    return [1, 2];
  }
  statistics(): ReadonlyMap<string, number> {
    return new Map([
      ['exits', 12],
      ['halt_exits', 7],
      ['nmi_injections', 0],
    ]);
  }
  async moveDatapath(device: string, datapath: DatapathName): Promise<void> {
    if (!this.datapaths.has(device)) throw new UsageError('E_DEVICE', `no ${device}`);
    this.datapaths.set(device, datapath);
  }
  setLink(device: string, up: boolean): void {
    this.links.push(`${device} ${up}`);
  }
  async holdQueue(device: string, queue: string): Promise<void> {
    this.queueCalls.push(`hold ${device} ${queue}`);
  }
  async stepQueue(device: string, queue: string): Promise<void> {
    this.queueCalls.push(`step ${device} ${queue}`);
  }
  async releaseQueue(device: string, queue: string): Promise<void> {
    this.queueCalls.push(`release ${device} ${queue}`);
  }
  async inspect(filter: InspectFilter): Promise<MachineInspection> {
    this.filters.push(filter);
    return { state: this.state, devices: [] };
  }
  async pause(): Promise<void> {
    this.state = 'paused';
  }
  async resume(): Promise<void> {
    this.state = 'running';
  }
  async stop(): Promise<void> {
    this.state = 'ended';
  }
  /** The guest that hears it ends at once. */
  pressPowerButton(): void {
    this.presses++;
    if (this.listens) this.state = 'ended';
  }
}
