/**
 * The records of a trace: 40 bytes each, so that a thread writes one without allocating.
 *
 *     byte  0         8     12    16  20  24     32
 *           time f64  what  whom  a   b   x f64  y f64
 *
 * `time` is CLOCK_MONOTONIC in milliseconds, `whom` a vCPU, or a device with one of its queues.
 */

/** 32-bit words of a record, and the same in doubles. */
export const RECORD_WORDS = 10;
export const RECORD_DOUBLES = 5;

/** The data half's `kick` was called, and returned. */
export const KICK = 1;
export const KICK_END = 2;
/** Its `ready` was called, a: token, b: events; and returned. */
export const READY = 3;
export const READY_END = 4;
/** A chain was taken. a: head or buffer id, b: segments, x: readable bytes, y: writable bytes. */
export const POP = 5;
/** A segment of the chain before. a: its index, b: 1 if writable, x: address, y: bytes. */
export const SEGMENT = 6;
/** The chain was given back untouched. a: as for POP */
export const UNDO_POP = 7;
/** A chain was used. a: as for POP, x: bytes written. */
export const PUSH = 8;
/** Used chains became visible. a: how many, b: 1 if the driver wants an interrupt. */
export const PUBLISH = 9;
export const INTERRUPT = 10;
/** Notifications were enabled. a: 1 if chains had come meanwhile. */
export const KICKS_ON = 11;
export const KICKS_OFF = 12;
/** The data half was started, and stopped. */
export const SERVED = 13;
export const STOPPED = 14;
/** The driver wrote the status. a: before, b: written, x: after. */
export const STATUS = 15;
/** The driver read offered features, or accepted some. a: select, x: the bits. */
export const FEATURES_OFFERED = 16;
export const FEATURES_ACCEPTED = 17;
/** The driver accessed configuration space. a: offset, b: bytes, x: value. */
export const CONFIG_READ = 18;
export const CONFIG_WRITE = 19;
/** A queue was enabled. a: its size, x: address of its descriptor area. */
export const QUEUE_ENABLED = 20;
export const QUEUE_RESET = 21;
/** A reset was completed. */
export const DEVICE_RESET = 22;
/** The device asks for a reset. */
export const NEEDS_RESET = 23;
/** The device changed its configuration. */
export const CONFIG_CHANGED = 24;
/** A vCPU enters the guest again. a: KVM_EXIT_*, b: bytes, x: when it left, y: port or address. */
export const EXIT = 25;
/** Simultaneous guest and host times. x: guest clock in ns; y: its flags. */
export const CLOCK = 26;
/** An IOMMU attached an endpoint to a domain, or detached it. a: endpoint, b: domain. */
export const IOMMU_ATTACH = 27;
export const IOMMU_DETACH = 28;
/** It mapped. a: domain, b: 4 * pages + flags, x: the first address, y: guest physical address of that. */
export const IOMMU_MAP = 29;
/** It unmapped. a: domain, b: mappings, x: the first address of the range, y: its last. */
export const IOMMU_UNMAP = 30;
/** It denied an access. a: endpoint, b: 1 for a write, x: address. */
export const IOMMU_FAULT = 31;

/** The value of `whom` for a queue, or for a device as a whole. */
export const DEVICE_ITSELF = 0xffff;
export const whomOf = (device: number, queue: number = DEVICE_ITSELF): number =>
  (device << 16) | queue;
export const deviceOf = (whom: number): number => whom >>> 16;
export const queueOf = (whom: number): number => whom & 0xffff;
