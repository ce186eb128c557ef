/** What the RPMB device promises, without a guest: `nodevmm device test` runs it. */
import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { test } from 'node:test';
import { TestDriver } from 'nodevmm/testing';
import device from './rpmb.ts';

const KEY: Buffer = Buffer.alloc(32, 'key');

/** A frame by its fields (§5.12.6). */
function frame(
  type: number,
  { data = '', nonce = 0, counter = 0, address = 0, count = 1 } = {},
): Buffer {
  const bytes = Buffer.alloc(512);
  bytes.write(data, 228);
  bytes.fill(nonce, 484, 500);
  bytes.writeUInt32BE(counter, 500);
  bytes.writeUInt16BE(address, 504);
  bytes.writeUInt16BE(count, 506);
  bytes.writeUInt16BE(type, 510);
  return bytes;
}

const mac = (frames: readonly Buffer[], key: Buffer = KEY): Buffer => {
  const hmac = createHmac('sha256', key);
  for (const one of frames) hmac.update(one.subarray(228));
  return hmac.digest();
};

function sealed(frames: Buffer[], key: Buffer = KEY): Buffer[] {
  mac(frames, key).copy(frames.at(-1) ?? Buffer.alloc(0), 196);
  return frames;
}

const RESULT_READ = frame(5, { count: 0 });

class Rpmb implements Disposable {
  readonly #driver: TestDriver;

  constructor(packed: boolean) {
    this.#driver = new TestDriver(device, { packed });
  }

  async ask(frames: readonly Buffer[], answers = 1): Promise<Buffer> {
    return Buffer.from(
      await this.#driver.request('requestq', Buffer.concat(frames), answers * 512),
    );
  }

  async result(frames: readonly Buffer[]): Promise<number> {
    return (await this.ask(frames)).readUInt16BE(508);
  }

  async programKey(): Promise<number> {
    const key = frame(1);
    KEY.copy(key, 196);
    return await this.result([key, RESULT_READ]);
  }

  get broken(): string | undefined {
    return this.#driver.needsReset;
  }

  [Symbol.dispose](): void {
    this.#driver[Symbol.dispose]();
  }
}

for (const packed of [false, true]) {
  const ring = packed ? 'packed' : 'split';

  test(`${ring}: without a key nothing but programming it`, async () => {
    using rpmb = new Rpmb(packed);
    assert.equal(await rpmb.result([frame(2)]), 7);
    assert.equal(await rpmb.result([frame(4)]), 7);
    assert.equal(await rpmb.result([frame(3), RESULT_READ]), 7);
    assert.equal(await rpmb.programKey(), 0);
    assert.equal(await rpmb.programKey(), 5, 'only once');
  });

  test(`${ring}: blocks are written by whoever has the key, once, and read with a fresh answer`, async () => {
    using rpmb = new Rpmb(packed);
    await rpmb.programKey();
    const write = sealed([
      frame(3, { data: 'first', address: 510, count: 2 }),
      frame(3, { data: 'second', address: 510, count: 2 }),
    ]);
    const done = await rpmb.ask([...write, RESULT_READ]);
    assert.deepEqual([done.readUInt16BE(508), done.readUInt16BE(510)], [0, 0x300]);
    assert.equal(done.readUInt32BE(500), 1, 'counted');
    assert.deepEqual(done.subarray(196, 228), mac([done]));
    assert.equal(await rpmb.result([...write, RESULT_READ]), 3, 'a replay');
    const read = await rpmb.ask([frame(4, { nonce: 9, address: 510, count: 2 })], 2);
    const frames = [read.subarray(0, 512), read.subarray(512)];
    assert.match(read.toString('latin1', 228), /^first\0/);
    assert.match(read.toString('latin1', 512 + 228), /^second\0/);
    assert.deepEqual(read.subarray(484, 500), Buffer.alloc(16, 9), 'the nonce');
    assert.deepEqual(read.subarray(512 + 196, 512 + 228), mac(frames));
    const counter = await rpmb.ask([frame(2, { nonce: 3 })]);
    assert.equal(counter.readUInt32BE(500), 1);
  });
}

test('what is refused: another key, blocks beyond the end, none, too many', async () => {
  using rpmb = new Rpmb(false);
  await rpmb.programKey();
  const write = (fields: object, key?: Buffer): Buffer[] => [
    ...sealed([frame(3, fields)], key),
    RESULT_READ,
  ];
  assert.equal(await rpmb.result(write({}, Buffer.alloc(32))), 2);
  assert.equal(await rpmb.result(write({ address: 512 })), 4);
  assert.equal(await rpmb.result(write({ count: 2 })), 1);
  assert.equal(await rpmb.result([frame(4, { address: 511, count: 2 })]), 4);
  assert.equal(await rpmb.result([frame(4, { count: 0 })]), 1);
  assert.equal(await rpmb.result([frame(4, { count: 9 })]), 1);
  assert.equal(await rpmb.result([frame(99)]), 1);
  assert.equal((await rpmb.ask([frame(2)])).readUInt32BE(500), 0, 'nothing was counted');
});

test('requests that are no frames', async () => {
  using rpmb = new Rpmb(false);
  assert.equal((await rpmb.ask([Buffer.alloc(100)])).length, 0);
  assert.equal(rpmb.broken, undefined);
  await rpmb.ask([Buffer.alloc(10 * 512)]).catch(() => {});
  assert.match(String(rpmb.broken), /a request of 5120 bytes/);
});
