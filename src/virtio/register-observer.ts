/** What happens to a device's registers, for those who watch its driver. */

export type RegisterEvent =
  /** The driver wrote the status (virtio 1.3 §2.1). `after` reads back; `accepted`: feature bits. */
  | { what: 'status'; before: number; value: number; after: number; accepted: bigint }
  /** The driver read 32 offered feature bits. */
  | { what: 'features read'; select: number; bits: number }
  /** The driver accepts 32 feature bits; ignored when the status has FEATURES_OK. */
  | { what: 'features written'; select: number; bits: number; status: number }
  /** The driver sets a queue's size or one of its addresses; ignored on one that is enabled. */
  | { what: 'queue written'; queue: number; status: number; enabled: boolean }
  /** The driver writes an unsupported size. */
  | { what: 'queue size refused'; queue: number; size: number }
  /** The driver enables a queue. `area`: guest physical address of its descriptor area. */
  | { what: 'queue enabled'; queue: number; status: number; size: number; area: number }
  /** The driver resets or stops a queue. `negotiated`: that is allowed. */
  | { what: 'queue reset'; queue: number; negotiated: boolean }
  /** The driver reads configuration space (§2.5). */
  | { what: 'config read'; offset: number; size: number; value: number }
  /** The driver writes configuration space. `writable`: any byte of it is. */
  | {
      what: 'config written';
      offset: number;
      size: number;
      value: number;
      writable: boolean;
      status: number;
    }
  /** The driver wrote a read-only register. `name`: the specification's. */
  | { what: 'read-only written'; name: string }
  /** All registers took their initial values. */
  | { what: 'reset completed' }
  /** The device asks for a reset (§2.1.2). */
  | { what: 'needs reset' }
  /** The device changed its configuration. */
  | { what: 'config changed' };

/** Called with the register lock held, in any thread: must neither throw nor wait. */
export type RegisterObserver = (event: Readonly<RegisterEvent>) => void;
