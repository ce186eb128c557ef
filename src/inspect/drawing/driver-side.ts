/** The left part of a drawing: what drives the device in the guest. */
import type { GuestDriver } from '../guest-drivers.ts';
import type { Box, Space, Step } from './drawing.ts';

/** From where the paths start. */
export interface DriverSide {
  /** The driver's. */
  readonly space: Space;
  readonly boxes: readonly Box[];
  readonly data: readonly Step[];
  /** After an interrupt of the guest. */
  readonly interrupt: readonly Step[];
  readonly notes: readonly string[];
}

/**
 * @param present false when no driver has found the device yet
 * @param driver undefined when it is not known
 */
export function driverSide(present: boolean, driver?: GuestDriver): DriverSide {
  if (!present) {
    const box: Box = { space: 'guestKernel', title: 'no driver' };
    return { space: 'guestKernel', boxes: [box], data: [], interrupt: [], notes: [] };
  }
  if (driver === undefined) {
    const box: Box = { space: 'guestKernel', title: 'driver', detail: 'unknown' };
    const notes = [
      'The guest does not say which driver it is: one in userland would be in the first column.',
    ];
    return { space: 'guestKernel', boxes: [box], data: [], interrupt: [], notes };
  }
  if (driver.userland) {
    const boxes: Box[] = [
      { space: 'guestUser', title: 'driver', detail: 'in userland' },
      { space: 'guestKernel', title: driver.name },
    ];
    const interrupt: Step = {
      path: 'interrupt',
      from: 'guestKernel',
      to: 'guestUser',
      text: `${driver.name}, if the driver waits`,
    };
    return { space: 'guestUser', boxes, data: [], interrupt: [interrupt], notes: [] };
  }
  return {
    space: 'guestKernel',
    boxes: [
      { space: 'guestUser', title: 'programs' },
      { space: 'guestKernel', title: driver.name },
    ],
    data: [
      {
        path: 'data',
        from: 'guestUser',
        to: 'guestKernel',
        both: true,
        text: 'programs’ reads and writes',
      },
    ],
    interrupt: [],
    notes: [],
  };
}
