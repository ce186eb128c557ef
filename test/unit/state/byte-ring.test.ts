/** Bytes that pass from a register to its owner: bounded, and what does not fit is counted. */
import t from 'tap';
import { ByteRing } from '../../../src/state/byte-ring.ts';
import { SharedState } from '../../../src/state/shared-state.ts';

const SIZE = 8;

function ringsOf(): [ByteRing, ByteRing] {
  const buffer = SharedState.allocate(0x1000);
  return [new ByteRing(new SharedState(buffer), SIZE), new ByteRing(new SharedState(buffer), SIZE)];
}

t.test('what one thread puts in the other takes out, around the end of the ring', async (t) => {
  const [guest, owner] = ringsOf();
  t.same(owner.take(), { bytes: new Uint8Array(0), lost: 0 });
  for (let round = 0; round < 5; round++) {
    for (const byte of [1, 2, 3, 4, 5]) guest.push(byte + round);
    t.same(
      [...owner.take().bytes],
      [1, 2, 3, 4, 5].map((byte) => byte + round),
    );
  }
});

t.test('what there is no room for is counted, once', async (t) => {
  const [guest, owner] = ringsOf();
  for (let i = 0; i < 100_000; i++) guest.push(i);
  const taken = owner.take();
  t.same([...taken.bytes], [0, 1, 2, 3, 4, 5, 6, 7]);
  t.equal(taken.lost, 100_000 - SIZE);
  guest.push(9);
  t.same(owner.take(), { bytes: Uint8Array.of(9), lost: 0 });
});
