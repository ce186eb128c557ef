/** The guests of a group: they all run at once, and those that are not being measured idle. */
import { messageOf } from '../../src/host/errors.ts';
import type { Measure } from '../harness/measure.ts';
import { type Contestant, measureInRounds, type Sample } from '../harness/rounds.ts';
import type { GuestSpec, RunningGuest, Subject } from '../subjects/subject.ts';
import type { Group, GroupContext } from './group.ts';

/** How often a guest is booted at most: an emulated host may break one at any time (docs/lab.md). */
const BOOTS = 3;
/** The approximate share of a group's time that its boots take. */
const BOOTING = 0.15;

/** Measures that the same runs yield. */
export interface Step {
  readonly measures: readonly [headline: Measure, ...aspects: Measure[]];
  /** Whether a subject takes part. Absent: all do. */
  suits?(index: number): boolean;
  /** Takes a sample. @param index of the guest's subject */
  take(guest: RunningGuest, index: number, warmUp: boolean): Promise<Sample>;
}

/** A subject and its guest, which is undefined when it did not come up. */
class Member implements Contestant, AsyncDisposable {
  readonly name: string;
  readonly reference: boolean;
  readonly peer?: string;
  readonly index: number;
  guest: RunningGuest | undefined;
  readonly #rests: boolean;
  readonly #boot: () => Promise<RunningGuest>;
  readonly #tell: (text: string) => void;
  #boots = 0;
  #failure = '';

  constructor(
    subject: Subject,
    index: number,
    boot: () => Promise<RunningGuest>,
    tell: (text: string) => void,
  ) {
    this.name = subject.name;
    this.reference = subject.reference;
    if (subject.peer !== undefined) this.peer = subject.peer;
    this.index = index;
    this.#rests = subject.rests === true;
    this.#boot = boot;
    this.#tell = tell;
  }

  /** Boots, and retries when that fails. */
  async boot(): Promise<void> {
    while (this.guest === undefined && this.#boots < BOOTS) {
      this.#boots += 1;
      try {
        this.guest = await this.#boot();
        this.#rest(true);
      } catch (error) {
        this.#failure = messageOf(error);
        this.#tell(`${this.name} did not boot: ${this.#failure}`);
      }
    }
  }

  /** Boots another guest: its own may have crashed or hung. @returns false when it cannot */
  async revive(): Promise<boolean> {
    if (this.guest === undefined || this.#boots >= BOOTS) return false;
    await this[Symbol.asyncDispose]();
    this.#tell(`booting ${this.name} again, it failed`);
    await this.boot();
    return this.guest !== undefined;
  }

  /** Uses it. @throws Error when it did not come up */
  async awake<T>(use: (guest: RunningGuest) => Promise<T>): Promise<T> {
    if (this.guest === undefined) throw new Error(this.#failure);
    this.#rest(false);
    try {
      return await use(this.guest);
    } finally {
      this.#rest(true);
    }
  }

  /** Others are measured: what never sleeps is stopped meanwhile. */
  #rest(resting: boolean): void {
    if (this.#rests) this.guest?.rest?.(resting);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const { guest } = this;
    this.guest = undefined;
    await guest?.[Symbol.asyncDispose]();
  }
}

/**
 * Boots one guest for each subject, and measures steps one after the other.
 * @param specOf the guest of the subject with this index, except its kernel and initramfs
 */
export async function measureGuests(
  { name: group, image = 'minimal' }: Group,
  subjects: readonly Subject[],
  specOf: (index: number) => Omit<GuestSpec, 'kernel' | 'initrd'>,
  steps: readonly Step[],
  context: GroupContext,
): Promise<void> {
  const { progress } = context;
  const members: Member[] = [];
  try {
    for (const [index, subject] of subjects.entries()) {
      progress(`${group}: booting ${subject.name}`, (BOOTING * index) / subjects.length);
      const boot = async (): Promise<RunningGuest> => {
        const { kernel, initrd } = await context.image(image, subject.kernel);
        return await subject.boot({ ...specOf(index), kernel, initrd });
      };
      const member = new Member(subject, index, boot, (text) => progress(`${group}: ${text}`));
      members.push(member);
      await member.boot();
    }
    const at = (done: number): number => BOOTING + ((1 - BOOTING) * done) / steps.length;
    for (const [index, step] of steps.entries()) {
      const taking = {
        ...{ group, measures: step.measures },
        contestants: members.filter(({ index }) => step.suits?.(index) ?? true),
        take: (member: Member, warmUp: boolean) =>
          member.awake((guest) => step.take(guest, member.index, warmUp)),
        revive: (member: Member) => member.revive(),
        span: [at(index), at(index + 1)] as const,
      };
      context.report(await measureInRounds(taking, context));
    }
  } finally {
    for (const member of members) await member[Symbol.asyncDispose]();
  }
}
