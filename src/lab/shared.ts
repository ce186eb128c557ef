/** The lab that the machines of a process share: it is booted for the first of them, and ends with the process. */
import { given } from '../options/option-schema.ts';
import { extraShares, openLab } from './kept.ts';
import type { Lab, LabOptions } from './lab.ts';

/** What a machine has of it. */
export interface HeldLab extends Disposable {
  readonly lab: Lab;
}

interface SharedLab {
  readonly opened: Promise<Lab>;
  holders: number;
}

/** By the folders that they share. */
const labs = new Map<string, SharedLab>();

/**
 * Attaches to the kept lab, or boots one that the next machines of this process find. As long as one is held, it
 * keeps the process.
 * @param shares folders that it has to be able to write to
 * @throws as `Lab.boot`
 */
export async function holdLab(
  shares: readonly string[],
  onProgress?: LabOptions['onProgress'],
): Promise<HeldLab> {
  const key = JSON.stringify(extraShares(shares).sort());
  const shared = labs.get(key) ?? {
    opened: openLab(given({ shares, onProgress })),
    holders: 0,
  };
  labs.set(key, shared);
  shared.holders += 1;
  try {
    const lab = await shared.opened;
    void lab.agent.closed.then(() => forget(key, shared));
    lab.keepProcess(true);
    return {
      lab,
      [Symbol.dispose](): void {
        shared.holders -= 1;
        if (shared.holders === 0) lab.keepProcess(false);
      },
    };
  } catch (error) {
    forget(key, shared);
    throw error;
  }
}

function forget(key: string, shared: SharedLab): void {
  if (labs.get(key) === shared) labs.delete(key);
}
