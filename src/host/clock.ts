/** The host's clock that is never set. */

/** CLOCK_MONOTONIC in milliseconds, which all threads share, as `performance.now()` is not. */
export function monotonicMs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1000 + nanoseconds / 1e6;
}
