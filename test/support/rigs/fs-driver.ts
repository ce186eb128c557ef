/** The driver's side of a file system device, as the tests play it: requests of linux/fuse.h. */
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import * as fuse from '../../../src/abi/fuse.ts';
import type { Field } from '../../../src/abi/struct.ts';
import { featureSet, VIRTIO_F_VERSION_1 } from '../../../src/abi/virtio-ring.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { type CompletedBuffer, DeviceRig } from '../../../src/testing/index.ts';
import { createFsDevice, type FsOptions } from '../../../src/virtio/device/fs/fs.ts';
import type { QueueHandler, VirtioDevice } from '../../../src/virtio/device.ts';
import { TemporaryFolder } from './blk-driver.ts';

type Layout = { readonly size: number };
type Values = Readonly<Record<string, number | bigint>>;

/** What became of a request. */
export interface FuseResult {
  /** 0, or a positive errno. */
  readonly error: number;
  readonly data: DataView;
  readonly bytes: Uint8Array;
  readonly written: number;
}

/** A struct's bytes; fields that are not named are 0. */
export function pack(layout: Layout, values: Values = {}): Uint8Array {
  const bytes = new Uint8Array(layout.size);
  const view = new DataView(bytes.buffer);
  const fields = layout as unknown as Record<string, Field>;
  for (const [name, value] of Object.entries(values)) {
    const { offset, length } = fields[name] as Field;
    if (length === 8) view.setBigUint64(offset, BigInt.asUintN(64, BigInt(value)), true);
    else if (length === 4) view.setUint32(offset, Number(value), true);
    else view.setUint16(offset, Number(value), true);
  }
  return bytes;
}

/** A field of an answer. */
export function field(view: DataView, { offset, length }: Field, at = 0): number {
  if (length === 8) return Number(view.getBigUint64(at + offset, true));
  return length === 4 ? view.getUint32(at + offset, true) : view.getUint16(at + offset, true);
}

/** A name as requests carry it. */
export const text = (name: string): Uint8Array => Buffer.from(`${name}\0`);

export const join = (...parts: readonly Uint8Array[]): Uint8Array => Buffer.concat(parts);

/** Descriptors that the process has open now. */
export const openDescriptors = (): number => readdirSync('/proc/self/fd').length;

/** An attribute of an answer's `struct fuse_attr`. */
export function attribute(
  result: FuseResult,
  name: keyof typeof fuse.fuse_attr & string,
  from: { readonly attr: Field } = fuse.fuse_attr_out,
): number {
  return field(result.data, fuse.fuse_attr[name] as Field, from.attr.offset);
}

/** What a test may set; the rest has the device's defaults. */
export interface FsDriverOptions extends Partial<FsOptions> {
  /** Feature bit numbers to negotiate besides. */
  readonly ring?: readonly number[];
  /** Send INIT at the start. Default true. */
  readonly mount?: boolean;
  /** Flags of it. */
  readonly flags?: number;
}

/** A file system device in a rig, with a driver that waits for each request. */
export class FsDriver implements Disposable {
  readonly device: VirtioDevice;
  readonly rig = new DeviceRig(32 * MiB);
  readonly #features: bigint;
  uid = 0;
  gid = 0;
  readonly #handler: QueueHandler;
  #unique = 1n;

  constructor(source: string, options: FsDriverOptions = {}) {
    const { ring = [], mount = true, flags = 0xffffffff, ...device } = options;
    this.device = createFsDevice({
      name: 'fs0',
      tag: 'test',
      queueSize: 64,
      maxFiles: 128,
      ...device,
      source,
    });
    this.#features = this.device.features | featureSet(VIRTIO_F_VERSION_1, ...ring);
    this.#handler = (this.device.createHandler as () => QueueHandler).call(this.device);
    this.start();
    if (mount) this.init(flags);
  }

  /** As at DRIVER_OK. */
  start(): void {
    const sizes = this.device.queues.map((queue) => queue.maxSize);
    this.rig.start(this.#handler, this.#features, sizes);
  }

  /** As a pause, and its end. */
  handOver(): void {
    this.rig.handOver(this.#handler, this.#features);
  }

  /** As when the driver resets the device. */
  reset(): void {
    this.rig.stop();
    this.device.reset?.();
    this.#handler.reset?.();
  }

  init(flags = 0xffffffff): FuseResult {
    const body = pack(fuse.fuse_init_in, { major: 7, minor: 31, max_readahead: 131072, flags });
    return this.request(fuse.FUSE_INIT, 0, body, fuse.fuse_init_out.size);
  }

  /** A request's header. */
  header(opcode: number, nodeid: number | bigint, length: number): Uint8Array {
    const unique = this.#unique++;
    const { uid, gid } = this;
    return pack(fuse.fuse_in_header, {
      len: fuse.fuse_in_header.size + length,
      opcode,
      unique,
      nodeid,
      uid,
      gid,
    });
  }

  /** Sends buffers in any layout, and waits for their return. */
  send(readable: readonly Uint8Array[], writable: readonly number[], queue = 1): CompletedBuffer {
    const driver = this.rig.queue(queue);
    driver.add({ readable, writable });
    this.rig.kick(queue);
    const done: CompletedBuffer[] = [];
    this.rig.pumpUntil(
      () => done.push(...driver.completed()) > 0 || this.rig.brokenReason !== undefined,
      'the request',
    );
    const [first] = done;
    if (first === undefined) throw new Error(`the device broke: ${this.rig.brokenReason}`);
    return first;
  }

  /** Sends a request in the layout that Linux uses. @param room for the answer, its header aside */
  request(opcode: number, nodeid: number | bigint, body: Uint8Array, room = 0): FuseResult {
    const readable = [this.header(opcode, nodeid, body.length)];
    if (body.length > 0) readable.push(body);
    const sent = readable[0] as Uint8Array;
    const done = this.send(readable, room > 0 ? [16, room] : [16]);
    const view = new DataView(done.data.buffer, done.data.byteOffset, done.data.length);
    const unique = new DataView(sent.buffer).getBigUint64(8, true);
    if (view.getBigUint64(8, true) !== unique) throw new Error('the answer is to another request');
    if (view.getUint32(0, true) !== done.written) throw new Error('the answer is not so long');
    return {
      error: -view.getInt32(4, true),
      bytes: done.data.subarray(16),
      data: new DataView(done.data.buffer, done.data.byteOffset + 16, done.data.length - 16),
      written: done.written,
    };
  }

  /** Sends one that is not answered. */
  sendOneWay(opcode: number, nodeid: number, body: Uint8Array, queue = 0): void {
    this.send([this.header(opcode, nodeid, body.length), body], [], queue);
  }

  lookup(parent: number, name: string): FuseResult {
    return this.request(fuse.FUSE_LOOKUP, parent, text(name), fuse.fuse_entry_out.size);
  }

  /** The node ID of a path below the shared folder. @throws when there is none */
  find(...names: readonly string[]): number {
    let at = fuse.FUSE_ROOT_ID;
    for (const name of names) {
      const found = this.lookup(at, name);
      if (found.error !== 0) throw new Error(`${name}: errno ${found.error}`);
      at = nodeOf(found);
    }
    return at;
  }

  open(nodeid: number, flags = 0): FuseResult {
    const body = pack(fuse.fuse_open_in, { flags });
    return this.request(fuse.FUSE_OPEN, nodeid, body, fuse.fuse_open_out.size);
  }

  create(parent: number, name: string, flags = 2, mode = 0o644): FuseResult {
    const body = join(pack(fuse.fuse_create_in, { flags, mode }), text(name));
    const room = fuse.fuse_entry_out.size + fuse.fuse_open_out.size;
    return this.request(fuse.FUSE_CREATE, parent, body, room);
  }

  read(fh: number, offset: number | bigint, size: number): FuseResult {
    const body = pack(fuse.fuse_read_in, { fh, offset, size_: size });
    return this.request(fuse.FUSE_READ, 0, body, size);
  }

  write(fh: number, offset: number | bigint, data: Uint8Array, more: Values = {}): FuseResult {
    const head = pack(fuse.fuse_write_in, { fh, offset, size_: data.length, ...more });
    return this.request(fuse.FUSE_WRITE, 0, join(head, data), fuse.fuse_write_out.size);
  }

  release(fh: number, opcode: number = fuse.FUSE_RELEASE): FuseResult {
    return this.request(opcode, 0, pack(fuse.fuse_release_in, { fh }));
  }

  forget(nodeid: number, nlookup: number | bigint): void {
    this.sendOneWay(fuse.FUSE_FORGET, nodeid, pack(fuse.fuse_forget_in, { nlookup }));
  }

  setattr(nodeid: number, values: Values): FuseResult {
    const body = pack(fuse.fuse_setattr_in, values);
    return this.request(fuse.FUSE_SETATTR, nodeid, body, fuse.fuse_attr_out.size);
  }

  getattr(nodeid: number | bigint): FuseResult {
    const room = fuse.fuse_attr_out.size;
    return this.request(fuse.FUSE_GETATTR, nodeid, pack(fuse.fuse_getattr_in), room);
  }

  [Symbol.dispose](): void {
    this.rig[Symbol.dispose]();
    this.device.close();
  }
}

/** The node ID of a `struct fuse_entry_out`, and the handle of a `struct fuse_open_out`. */
export const nodeOf = (result: FuseResult): number =>
  field(result.data, fuse.fuse_entry_out.nodeid);
export const handleOf = (result: FuseResult, at = 0): number =>
  field(result.data, fuse.fuse_open_out.fh, at);
/** The handle that CREATE answers with. */
export const createdHandle = (result: FuseResult): number =>
  handleOf(result, fuse.fuse_entry_out.size);

/** An entry of READDIR or READDIRPLUS. */
export interface Dirent {
  readonly name: string;
  readonly off: bigint;
  readonly type: number;
  /** Of READDIRPLUS. */
  readonly nodeid: number;
}

export function direntsOf({ data, bytes }: FuseResult, plus: boolean): Dirent[] {
  const { off, namelen, type, size } = fuse.fuse_dirent;
  const entries: Dirent[] = [];
  for (let at = 0; at < bytes.length; ) {
    const head = at + (plus ? fuse.fuse_entry_out.size : 0);
    const length = field(data, namelen, head);
    entries.push({
      name: Buffer.from(bytes.subarray(head + size, head + size + length)).toString(),
      off: data.getBigUint64(head + off.offset, true),
      type: field(data, type, head),
      nodeid: plus ? field(data, fuse.fuse_entry_out.nodeid, at) : 0,
    });
    at = head + Math.ceil((size + length) / 8) * 8;
  }
  return entries;
}

/** A folder with a few files, and the devices that share it: all go when the test is over. */
export class SharedFolder implements Disposable {
  readonly #folder = new TemporaryFolder();
  readonly #drivers: FsDriver[] = [];

  constructor() {
    writeFileSync(this.at('file'), 'content of the file');
    mkdirSync(this.at('folder'));
    writeFileSync(this.at('folder/inner'), 'inner');
  }

  get path(): string {
    return path.join(this.#folder.path, 'shared');
  }

  /** A path in it. */
  at(name: string): string {
    mkdirSync(this.path, { recursive: true });
    return path.join(this.path, name);
  }

  /** A path next to it, which no guest may reach. */
  outside(name: string): string {
    return path.join(this.#folder.path, name);
  }

  driver(options?: FsDriverOptions): FsDriver {
    const driver = new FsDriver(this.path, options);
    this.#drivers.push(driver);
    return driver;
  }

  [Symbol.dispose](): void {
    for (const driver of this.#drivers) driver[Symbol.dispose]();
    this.#folder[Symbol.dispose]();
  }
}
