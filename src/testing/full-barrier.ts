/** What a driver's `virtio_mb()` is, for devices that are served in another thread or process. */
const word = new Int32Array(1);

/**
 * Makes the stores before it visible ahead of the loads after it: a driver offers a buffer, then
 * looks whether the device wants a notification (virtio 1.3 §2.7.13.4.1, §2.8.21.3.1), or asks for
 * interrupts, then looks for used buffers (§2.7.14).
 */
export function fullBarrier(): void {
  Atomics.exchange(word, 0, 0);
}
