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
/** A segment of the chain before. a: its number, b: 1 if writable, x: address, y: bytes. */
export const SEGMENT = 6;
/** The chain was given back untouched. a: as for POP */
export const UNDO_POP = 7;
/** A chain was used. a: as for POP, x: bytes written. */
export const PUSH = 8;
/** Used chains became visible. a: how many, b: 1 if the driver wants an interrupt. */
export const PUBLISH = 9;
export const INTERRUPT = 10;
/** Notifications were asked for. a: 1 if chains had come meanwhile. */
export const KICKS_ON = 11;
export const KICKS_OFF = 12;
/** The data half was started, and stopped. */
export const SERVED = 13;
export const STOPPED = 14;
/** What `whom` is for a queue, or for a device as a whole. */
export const DEVICE_ITSELF = 0xffff;
export const whomOf = (device: number, queue: number = DEVICE_ITSELF): number =>
  (device << 16) | queue;
