/** The watchdog, as a type of device. */
import { choice, options } from '../options/option-schema.ts';
import type { DeviceType } from '../virtio/device-type.ts';

/**
 * What happens when a guest does not restart its watchdog in time: the machine is reset as by a reboot, the run ends
 * with the reason `watchdog`, or there is only a line in the log.
 */
export type WatchdogAction = 'reset' | 'exit' | 'none';

/** Options of the watchdog. */
export interface WatchdogOptions {
  /** Default `reset`. */
  readonly action?: WatchdogAction;
}

declare module '../virtio/device-type.ts' {
  interface MachineDeviceOptions {
    /** A watchdog timer, Intel's 6300ESB (Linux's i6300esb); see docs/power.md. Default false. */
    readonly watchdog?: boolean | WatchdogOptions;
  }
}

/** A watchdog that a machine is to have. */
export class WatchdogDevice {
  readonly name: string;
  readonly action: WatchdogAction;

  constructor(name: string, { action = 'reset' }: WatchdogOptions) {
    this.name = name;
    this.action = action;
  }

  close(): void {}
}

export const watchdogType: DeviceType<WatchdogDevice> = {
  name: 'watchdog',
  summary: 'a watchdog timer (docs/power.md)',
  key: 'watchdog',
  number: 'on-request',
  cli: { option: '--watchdog', value: 'action', bare: true },
  firstKey: 'action',
  backends: [
    {
      name: 'i6300esb',
      options: options<WatchdogOptions>(
        {},
        { action: choice<WatchdogAction>(['reset', 'exit', 'none']) },
      ),
      create: (own: object, { name }) => new WatchdogDevice(name, own as WatchdogOptions),
    },
  ],
};
