/** The drawing of a running machine's device, with the driver that its guest names. */

import type { VirtualMachine } from '../../../src/index.ts';
import { drawMachine } from '../../../src/inspect/drawing/draw-machine.ts';
import { crossing, type Drawing } from '../../../src/inspect/drawing/drawing.ts';
import { askDrivers } from '../../../src/inspect/guest-drivers.ts';

/** Of a guest that shares an emulated CPU. */
const PATIENCE_MS = 60_000;

export async function drawingOf(vm: VirtualMachine, device: string): Promise<Drawing> {
  const drivers = await askDrivers(vm, PATIENCE_MS);
  const [drawing] = drawMachine(await vm.inspect({ device: '' }), { drivers }, device);
  if (drawing === undefined) throw new Error(`no drawing of ${device}`);
  return drawing;
}

/** Its steps: path, ends, and boundary. */
export function stepsOf({ steps }: Drawing): string[] {
  return steps.map((step) => `${step.path} ${step.from} ${step.to}: ${crossing(step) ?? 'stays'}`);
}

/** What is in a space. */
export function boxesIn({ boxes }: Drawing, space: string): string[] {
  return boxes.filter((box) => box.space === space).map(({ title }) => title);
}
