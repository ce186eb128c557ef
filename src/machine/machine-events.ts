/** What a machine tells of itself. */
import type { RuleBreach } from './machine-observer.ts';
import type { MachineExit } from './options.ts';

/** Events of a machine, by name. */
export interface VirtualMachineEvents {
  /** The run ended: by the guest, by `stop`, or because something broke. */
  exit: [MachineExit];
  /** One line for the person who runs the machine, e.g. that a driver broke a rule. */
  log: [string];
  /** The guest rebooted and runs again. */
  reboot: [];
  /** A driver or a device broke a rule of virtio (option `check`); also told by `log`. */
  breach: [RuleBreach];
}

/** Where a machine is between its creation and its disposal. */
export type MachineState = 'created' | 'starting' | 'running' | 'paused' | 'ended' | 'disposed';
