/** Observes a driver's accesses to a device's registers. */

/** All methods run with the register lock held, in any thread: they must neither throw nor wait. */
export interface RegisterObserver {
  /**
   * The driver wrote the status (virtio 1.3 §2.1).
   * @param after the value that reads back
   * @param accepted the feature bits that the driver has accepted
   */
  statusWritten(before: number, value: number, after: number, accepted: bigint): void;
  /** The driver read 32 offered feature bits. */
  featuresRead(select: number, bits: number): void;
  /** The driver accepts 32 feature bits; ignored when the status has FEATURES_OK. */
  featuresWritten(select: number, bits: number, status: number): void;
  /** The driver sets a queue's size or one of its addresses; ignored on one that is enabled. */
  queueWritten(queue: number, status: number, enabled: boolean): void;
  /** The driver writes an unsupported size. */
  queueSizeRefused(queue: number, size: number): void;
  /** The driver enables a queue. @param area guest physical address of its descriptor area */
  queueEnabled(queue: number, status: number, size: number, area: number): void;
  /** The driver resets or stops a queue. @param negotiated whether that is allowed */
  queueReset(queue: number, negotiated: boolean): void;
  /** The driver reads configuration space (§2.5). */
  configRead(offset: number, size: number, value: number): void;
  /** The driver writes configuration space. @param writable whether any byte of it is writable */
  configWritten(
    offset: number,
    size: number,
    value: number,
    writable: boolean,
    status: number,
  ): void;
  /** The driver wrote a read-only register. @param name the specification's */
  readOnlyWritten(name: string): void;
  /** All registers took their initial values. */
  resetCompleted(): void;
  /** The device asks for a reset (§2.1.2). */
  needsReset(): void;
  /** The device changed its configuration. */
  configChanged(): void;
}
