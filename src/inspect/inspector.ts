/** What the views need of a machine, wherever it runs. */

import type { QueueOrder } from '../control/protocol.ts';
import type { InspectFilter, MachineInspection } from '../machine/inspect.ts';

/** The inspected machine. */
export interface Inspector {
  readonly name: string;
  /** @throws NodeVmmError in one line, when the machine is gone */
  inspect(filter: InspectFilter): Promise<MachineInspection>;
  /** @throws NodeVmmError in one line, when it refuses */
  order(call: QueueOrder, device: string, queue: string): Promise<void>;
}
