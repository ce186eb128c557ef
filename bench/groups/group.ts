/** The contract of a group of measures, and what all groups that boot guests share. */

import type { Guest } from '../../src/guest/guests.ts';
import type { KernelSeries } from '../../src/guest/kernel.ts';
import { messageOf } from '../../src/host/errors.ts';
import type { Result } from '../harness/measure.ts';
import type { Contestant, Rounds, Span } from '../harness/rounds.ts';
import type { Processes } from '../harness/usage.ts';
import type { Wanted } from '../subjects/selection.ts';
import type { GuestSpec, RunningGuest, Subject } from '../subjects/subject.ts';

/** How to run a group. */
export interface GroupContext extends Rounds {
  /** How long one sample of throughput takes. */
  readonly seconds: number;
  /** Only the most important measures. */
  readonly quick: boolean;
  /** A folder on a real file system, for disks. */
  readonly folder: string;
  readonly wanted: Wanted;
  /** True for a measure to skip: it was not requested, or was taken before. */
  readonly skips: (measure: string) => boolean;
  /** Takes results as soon as there are some, so that a lost lab does not lose them too. */
  readonly report: (results: readonly Result[]) => void;
  /** Records what is left out. */
  readonly omit: (what: string, why: string) => void;
  readonly image: (name: 'minimal' | 'tools', kernel?: KernelSeries) => Promise<Guest>;
}

/** A group of measures. */
export interface Group {
  readonly name: string;
  /** One line. */
  readonly summary: string;
  /** Only measured when it is named. */
  readonly named?: true;
  /** Boots Linux: where this host's KVM cannot, the group runs in the lab. */
  readonly guests: boolean;
  /** The images that it boots, which the lab cannot make. */
  readonly images: (wanted: Wanted) => readonly ImageName[];
  run(context: GroupContext): Promise<void>;
}

/** A guest image and its kernel. */
export interface ImageName {
  readonly name: 'minimal' | 'tools';
  readonly kernel?: KernelSeries;
}

/** A subject whose guest runs; `guest` is undefined when it did not come up. */
export interface Booted extends Contestant {
  readonly guest: RunningGuest | undefined;
  /** Of the guest that did not come up. */
  readonly failure?: string;
}

/** How often a guest is booted at most: an emulated host may break one at any time (docs/lab.md). */
const BOOTS = 3;

class Member implements Booted {
  readonly name: string;
  readonly reference: boolean;
  readonly peer?: string;
  guest: RunningGuest | undefined;
  failure?: string;
  readonly #boot: () => Promise<RunningGuest>;
  #boots = 0;

  constructor({ name, reference, peer }: Contestant, boot: () => Promise<RunningGuest>) {
    this.name = name;
    this.reference = reference;
    if (peer !== undefined) this.peer = peer;
    this.#boot = boot;
  }

  /** True when it was booted as often as allowed. */
  get isSpent(): boolean {
    return this.#boots >= BOOTS;
  }

  /** Boots, and retries when that fails. @param tell gets the reason of each failure */
  async boot(tell: (why: string) => void): Promise<void> {
    while (this.guest === undefined && this.#boots < BOOTS) {
      this.#boots += 1;
      try {
        this.guest = await this.#boot();
        await this.guest.rest?.(true);
      } catch (error) {
        this.failure = messageOf(error);
        tell(this.failure);
      }
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { guest } = this;
    this.guest = undefined;
    await guest?.[Symbol.asyncDispose]();
  }
}

/** The approximate share of a group's time that its boots take. */
export const BOOTING = 0.15;

/** Guests that all run at once; those that are not measured idle. */
export class Fleet implements AsyncDisposable {
  readonly members: readonly Booted[];
  readonly #own: readonly Member[];
  readonly #progress: GroupContext['progress'];

  private constructor(members: readonly Member[], progress: GroupContext['progress']) {
    this.members = members;
    this.#own = members;
    this.#progress = progress;
  }

  /**
   * Boots one guest for each subject, one after the other.
   * @param specOf the guest of the subject with this index, except its kernel and initramfs
   */
  static async boot(
    group: string,
    image: ImageName['name'],
    subjects: readonly Subject[],
    context: GroupContext,
    specOf: (index: number) => Omit<GuestSpec, 'kernel' | 'initrd'>,
  ): Promise<Fleet> {
    const { progress } = context;
    const members: Member[] = [];
    const fleet = new Fleet(members, progress);
    for (const [index, subject] of subjects.entries()) {
      const { name } = subject;
      progress(`${group}: booting ${name}`, (BOOTING * index) / subjects.length);
      const member = new Member(subject, async () => {
        const { kernel, initrd } = await context.image(image, subject.kernel);
        return await subject.boot({ ...specOf(index), kernel, initrd });
      });
      await member.boot((why) => progress(`${group}: ${name} did not boot: ${why}`));
      members.push(member);
    }
    return fleet;
  }

  /** Boots another guest for a member that failed: its own may have crashed or hung. @returns false when it cannot */
  readonly revive = async (member: Booted): Promise<boolean> => {
    const own = this.#own.find((one) => one === member);
    if (own?.guest === undefined || own.isSpent) return false;
    await own[Symbol.asyncDispose]();
    this.#progress(`booting ${own.name} again, it failed`);
    await own.boot((why) => this.#progress(`${own.name} did not boot: ${why}`));
    return own.guest !== undefined;
  };

  async [Symbol.asyncDispose](): Promise<void> {
    for (const member of this.#own) await member[Symbol.asyncDispose]();
  }
}

/** The part of a group, after its boots, that one of its measures takes. */
export function spanOf(index: number, count: number): Span {
  const at = (done: number): number => BOOTING + ((1 - BOOTING) * done) / count;
  return [at(index), at(index + 1)];
}

/** The part of a group without boots that one of its measures takes. */
export const partOf = (index: number, count: number): Span => [index / count, (index + 1) / count];

/** Several short samples, so that some escape the host's other work. */
export const manySamples = (count: number, sample: () => number): number[] =>
  Array.from({ length: count }, sample);

/** The guest of a member. @throws Error when it did not come up */
export function guestOf({ guest, failure, name }: Booted): RunningGuest {
  if (guest === undefined) throw new Error(failure ?? `${name} has no guest`);
  return guest;
}

/** The processes to watch while a member is measured; 0, which none has, without a guest. */
export const processesOf = ({ guest }: Booted): Processes => guest ?? { pid: 0 };

/** Measures a member while all of its processes are awake. */
export async function awake<T>({ guest }: Booted, work: () => Promise<T>): Promise<T> {
  await guest?.rest?.(false);
  try {
    return await work();
  } finally {
    await guest?.rest?.(true);
  }
}
