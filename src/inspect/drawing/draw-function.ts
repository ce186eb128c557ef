/** The drawing of a PCI function of the host: the guest's driver and the hardware, and hardly anything between them. */
import type { InspectedFunction } from '../../vfio/inspected-function.ts';
import { sizeText } from '../function-facts.ts';
import type { GuestDriver } from '../guest-drivers.ts';
import type { Drawing, Space, Step } from './drawing.ts';
import { driverSide } from './driver-side.ts';

/** Draws one. @param driver undefined when it is not known */
export function drawFunction(seen: InspectedFunction, driver?: GuestDriver): Drawing {
  const { name, id, place = 'not plugged in', address, pinned, gone } = seen;
  const left = driverSide(seen.place !== undefined, driver);
  const from = left.space;
  const interrupts = interruptSteps(seen);
  return {
    title: `${name}: PCI function ${id} of the host, ${place}, hardware (VFIO)`,
    boxes: [
      ...left.boxes,
      { space: 'vmm', title: 'vCPU threads' },
      { space: 'hostKernel', title: 'KVM' },
      { space: 'hostKernel', title: seen.driver ?? 'no driver' },
      { space: 'hardware', title: id, detail: address },
    ],
    steps: gone
      ? []
      : [
          {
            path: 'rings',
            from,
            to: 'hardware',
            both: true,
            memory: true,
            text: `where the driver put them; ${sizeText(pinned)} of guest RAM mapped`,
          },
          { path: 'control', from, to: 'vmm', text: 'configuration space, MSI-X table' },
          {
            path: 'control',
            from: 'vmm',
            to: 'hostKernel',
            text: 'pread, pwrite, VFIO_DEVICE_SET_IRQS',
          },
          {
            path: 'control',
            from: 'hostKernel',
            to: 'hardware',
            text: `by ${seen.driver ?? 'VFIO'}`,
          },
          ...left.data,
          { path: 'data', from, to: 'hardware', both: true, memory: true, text: 'by the device' },
          ...kickSteps(seen, from),
          ...interrupts,
          ...(interrupts.length > 0 ? left.interrupt : []),
        ],
    notes: gone ? ['The host has taken it back.'] : left.notes,
  };
}

function kickSteps({ bars }: InspectedFunction, from: Space): Step[] {
  const decoded = bars.filter(({ address }) => address !== null);
  const texts = (mapped: boolean): string =>
    decoded
      .filter(({ areas }) => areas.some(({ slot }) => (slot !== null) === mapped))
      .map(({ index, address }) => `BAR ${index} at ${address}`)
      .join(', ');
  const [direct, trapped] = [texts(true), texts(false)];
  const steps: Step[] = [];
  if (direct !== '') {
    steps.push({ path: 'kick', from, to: 'hardware', text: `${direct}, memory slots of KVM` });
  }
  if (trapped !== '') {
    steps.push({ path: 'kick', from, to: 'vmm', text: `what is not mapped of ${trapped}` });
  }
  return steps;
}

function interruptSteps({ interrupts }: InspectedFunction): Step[] {
  const { mode, used } = interrupts;
  if (mode === 'none' || used === 0) return [];
  const count = mode === 'INTx' ? mode : `${mode}, ${used} vector${used === 1 ? '' : 's'}`;
  const entry = mode === 'INTx' ? 'irqfd; the guest’s end of interrupt unmasks it' : 'irqfd';
  return [
    { path: 'interrupt', from: 'hardware', to: 'hostKernel', text: count },
    { path: 'interrupt', from: 'hostKernel', to: 'guestKernel', text: entry },
  ];
}
