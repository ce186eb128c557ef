/** A limit on how long a promise is waited for. */

/**
 * Settles as a promise does, or by `late` after some time.
 * @param late gives the value, or throws
 */
export async function inTime<T, Late>(
  promise: Promise<T>,
  milliseconds: number,
  late: () => Late,
): Promise<T | Late> {
  const isLate = Symbol();
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<typeof isLate>((resolve) => {
    timer = setTimeout(() => resolve(isLate), milliseconds);
  });
  try {
    const first = await Promise.race([promise, timeout]);
    return first === isLate ? late() : first;
  } finally {
    clearTimeout(timer);
  }
}
