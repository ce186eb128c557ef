/** The contract of a group of measures, and what all groups that boot guests share. */
import type { Guest } from '../../src/guest/guests.ts';
import type { Result } from '../harness/measure.ts';
import type { Contestant, Rounds } from '../harness/rounds.ts';
import type { GuestSpec, RunningGuest, Subject } from '../subjects/subject.ts';

/** How a group is to be run. */
export interface GroupContext extends Rounds {
  /** How long one sample of throughput takes. */
  readonly seconds: number;
  /** A folder on a real file system, for disks. */
  readonly folder: string;
  /** Whether the person asked for this subject. */
  readonly selected: (name: string) => boolean;
  readonly image: (name: 'minimal' | 'tools') => Promise<Guest>;
}

/** A group of measures. */
export interface Group {
  readonly name: string;
  /** One line. */
  readonly summary: string;
  /** Boots Linux: where this host's KVM cannot, the group runs in the lab. */
  readonly guests: boolean;
  run(context: GroupContext): Promise<Result[]>;
}

/** A subject whose guest runs; `guest` is undefined when it did not come up. */
export interface Booted extends Contestant {
  readonly guest: RunningGuest | undefined;
  /** Of the guest that did not come up. */
  readonly failure?: string;
}

/** Guests that all run at once; those that are not measured idle. */
export class Fleet implements AsyncDisposable {
  readonly members: readonly Booted[];

  private constructor(members: readonly Booted[]) {
    this.members = members;
  }

  /**
   * Boots one guest for each selected subject, one after the other.
   * @param specOf the guest of the subject with this number
   */
  static async boot(
    group: string,
    subjects: readonly Subject[],
    { progress, selected }: GroupContext,
    specOf: (index: number) => GuestSpec,
  ): Promise<Fleet> {
    const members: Booted[] = [];
    for (const [index, subject] of subjects.entries()) {
      const { name, reference } = subject;
      if (!reference && !selected(name)) continue;
      progress(`${group}: booting ${name}`);
      try {
        members.push({ name, reference, guest: await subject.boot(specOf(index)) });
      } catch (error) {
        const failure = error instanceof Error ? error.message : String(error);
        progress(`${group}: ${name} did not boot: ${failure}`);
        members.push({ name, reference, guest: undefined, failure });
      }
    }
    return new Fleet(members);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { guest } of this.members) await guest?.[Symbol.asyncDispose]();
  }
}

/** The guest of a member. @throws Error when it did not come up */
export function guestOf({ guest, failure, name }: Booted): RunningGuest {
  if (guest === undefined) throw new Error(failure ?? `${name} has no guest`);
  return guest;
}

/** The process to watch while a member is measured; 0, which none has, without a guest. */
export const pidOf = ({ guest }: Booted): number => guest?.pid ?? 0;
