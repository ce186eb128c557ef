/**
 * A drawing of how a device's queues are served: what lives in which space, and a row for each step of each path from one
 * space to another. It has no coordinates; `text.ts` and `svg.ts` give it some.
 */

/** The spaces, from left to right. */
export const SPACES = [
  'guestUser',
  'guestKernel',
  'vmm',
  'process',
  'hostKernel',
  'hardware',
] as const;
export type Space = (typeof SPACES)[number];

/** As headings. */
export const SPACE_NAMES: Readonly<Record<Space, string>> = {
  guestUser: 'guest user space',
  guestKernel: 'guest kernel',
  vmm: 'nodevmm',
  process: 'other process',
  hostKernel: 'host kernel',
  hardware: 'hardware',
};

/** Spaces of the guest come first. */
export const GUEST_SPACES = 2;

/**
 * `rings`: who reads and writes them. `control`: set-up. `data`: what a buffer holds. `kick`: the driver notifies the
 * device. `interrupt`: the device notifies the driver.
 */
export type Path = 'rings' | 'control' | 'data' | 'kick' | 'interrupt';

/** Something that lives in a space. */
export interface Box {
  readonly space: Space;
  readonly title: string;
  readonly detail?: string;
}

/** A row: one step of a path; inside of one space when its ends are equal. */
export interface Step {
  readonly path: Path;
  readonly from: Space;
  readonly to: Space;
  /** An arrow at both ends. */
  readonly both?: boolean;
  /** Both ends access the same memory: nothing is carried. */
  readonly memory?: boolean;
  /** By which means, in a few words. */
  readonly text: string;
}

/** All of a drawing. */
export interface Drawing {
  readonly title: string;
  readonly boxes: readonly Box[];
  /** Those of a path follow each other. */
  readonly steps: readonly Step[];
  /** Sentences. */
  readonly notes: readonly string[];
}

type Zone = 'guest' | 'guestUser' | 'user' | 'kernel' | 'hardware';
const ZONES: Readonly<Record<Space, Zone>> = {
  guestUser: 'guestUser',
  guestKernel: 'guest',
  vmm: 'user',
  process: 'user',
  hostKernel: 'kernel',
  hardware: 'hardware',
};

const CARRIED: Readonly<Record<string, string>> = {
  'guestUser guest': 'guest system call',
  'guest guestUser': 'guest wake-up',
  'guest kernel': 'VM exit',
  'guestUser kernel': 'VM exit',
  'guest user': 'VM exit to user space',
  'guestUser user': 'VM exit to user space',
  'kernel guest': 'VM entry',
  'user kernel': 'system call',
  'kernel user': 'wake-up',
  'user user': 'system call, wake-up',
  'kernel hardware': 'bus',
  'hardware kernel': 'bus',
  'guest hardware': 'no exit, bus',
  'guestUser hardware': 'no exit, bus',
};

/** The boundary that a step crosses; undefined when it stays in its space. */
export function crossing({ from, to, memory = false }: Step): string | undefined {
  if (from === to) return undefined;
  const zones = [ZONES[from], ZONES[to]] as const;
  if (memory) return zones.includes('hardware') ? 'DMA through the IOMMU' : 'shared memory';
  return CARRIED[zones.join(' ')];
}

/** What a step's label says. */
export function labelOf(step: Step): string {
  const boundary = crossing(step);
  return boundary === undefined ? step.text : `${boundary}: ${step.text}`;
}
