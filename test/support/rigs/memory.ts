/** Waiting for a guest's memory to change. */
import { setTimeout as sleep } from 'node:timers/promises';

/** Polls until a condition holds. @throws Error when that takes longer than a minute */
export async function settled(
  holds: () => boolean | Promise<boolean>,
  what: string,
): Promise<void> {
  for (let left = 600; left > 0; left--) {
    if (await holds()) return;
    await sleep(100);
  }
  throw new Error(`waited a minute for ${what}`);
}
