/** What the views ask of a machine, wherever it runs. */

import type { GateOrder } from '../machine/devices/queue-holds.ts';
import type { InspectFilter, MachineInspection } from '../machine/inspect.ts';

/** A machine that is looked at. */
export interface Inspector {
  readonly name: string;
  /** @throws NodeVmmError in one line, when the machine is gone */
  inspect(filter: InspectFilter): Promise<MachineInspection>;
  /** @throws NodeVmmError in one line, when it refuses */
  order(call: GateOrder, device: string, queue: string): Promise<void>;
}
