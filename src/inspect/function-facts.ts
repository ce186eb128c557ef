/** What page and terminal show of a PCI function of the host, as texts. */
import { GiB, MiB } from '../memory/ram-layout.ts';
import type {
  InspectedArea,
  InspectedBar,
  InspectedFunction,
  InspectedInterrupts,
} from '../vfio/inspected-function.ts';

/** A name and what is known. */
export type Fact = readonly [name: string, text: string];

const RESETS = {
  function: 'on its own',
  bus: 'with all functions of its bus',
  none: 'cannot be reset',
} as const;

/** Where it is and what it is used for. */
export function functionFacts(seen: InspectedFunction): Fact[] {
  const { address, group, driver, id, classCode, place, gone, interrupts, pinned } = seen;
  return [
    ['on the host', `${address}, IOMMU group ${group}, driver ${driver ?? 'none'}`],
    ['in the guest', gone ? 'taken back by the host' : (place ?? 'not plugged in')],
    ['IDs', `${id}, class ${classCode}`],
    ['interrupts', interruptText(interrupts)],
    ['locked RAM', `${sizeText(pinned)}, shared by all functions of the host`],
    ['resets', `${seen.resets}, ${RESETS[seen.resetMethod]}`],
  ];
}

/** A BAR's columns: which, its kind, size, where the guest has it, and what it consists of. */
export function barColumns({ index, kind, size, address, areas }: InspectedBar): string[] {
  const kinds = { io: 'ports', memory: 'memory', memory64: 'memory, 64 bits' } as const;
  const place = address ?? 'not decoded';
  return [`BAR ${index}`, kinds[kind], sizeText(size), place, areas.map(areaText).join(', ')];
}

/** `MSI-X 2/65`: vectors in use, and how many there are. */
export function interruptText({ mode, used, vectors }: InspectedInterrupts): string {
  return vectors <= 1 && used === vectors ? mode : `${mode} ${used}/${vectors}`;
}

function areaText({ offset, size, slot }: InspectedArea): string {
  const how = slot === null ? 'trapped' : `memory slot ${slot}`;
  return `0x${offset.toString(16)}+0x${size.toString(16)} ${how}`;
}

/** `512 MiB`. */
export function sizeText(bytes: number): string {
  for (const [unit, name] of [
    [GiB, 'GiB'],
    [MiB, 'MiB'],
    [2 ** 10, 'KiB'],
  ] as const) {
    if (bytes >= unit && bytes % unit === 0) return `${bytes / unit} ${name}`;
  }
  return `${bytes} bytes`;
}
