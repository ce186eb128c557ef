/** Whether this host lets a test make taps. */
import { Tap } from '../../src/backend/tap.ts';

/** False when taps can be made, else why not: for a test's `skip`. */
export function tapReason(): string | false {
  try {
    new Tap().close();
    return false;
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
