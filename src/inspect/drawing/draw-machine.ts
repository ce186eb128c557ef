/** The drawings of a machine's devices. */
import type { MachineInspection } from '../../machine/inspect.ts';
import type { Activity } from '../activity.ts';
import type { GuestDriver, GuestDriverMap } from '../guest-drivers.ts';
import { drawDevice } from './draw-device.ts';
import { drawFunction } from './draw-function.ts';
import type { Drawing } from './drawing.ts';

/** What drawings show besides the snapshot. */
export interface DrawnFacts {
  /** Those that the guest named. */
  readonly drivers?: GuestDriverMap;
  readonly activity?: Activity;
}

/** Draws them all, or one. @param only its name */
export function drawMachine(
  { devices, functions }: MachineInspection,
  { drivers, activity }: DrawnFacts,
  only?: string,
): Drawing[] {
  const isAsked = ({ name }: { readonly name: string }): boolean =>
    only === undefined || name === only;
  const driverOf = ({ place }: { readonly place?: string }): GuestDriver | undefined =>
    drivers?.get(place ?? '');
  return [
    ...devices
      .filter(isAsked)
      .map((one) => drawDevice(one, driverOf(one), activity?.devices.get(one.name))),
    ...functions.filter(isAsked).map((one) => drawFunction(one, driverOf(one))),
  ];
}
