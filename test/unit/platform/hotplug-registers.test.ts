/** The registers behind hotplug, in any order of what guest and machine do. */
import fc from 'fast-check';
import t from 'tap';
import { HotplugRegisters } from '../../../src/platform/hotplug-registers.ts';
import { SharedState } from '../../../src/state/shared-state.ts';

const [UP, DOWN, EJECT] = [0, 4, 8];

interface Rig {
  readonly registers: HotplugRegisters;
  /** Another thread's. */
  readonly elsewhere: HotplugRegisters;
  readonly ejections: { readonly slots: readonly number[]; readonly isFirst: boolean }[];
}

function rig(ejectable: readonly number[] = []): Rig {
  const buffer = SharedState.allocate(256);
  const ejections: Rig['ejections'] = [];
  const ejected = (slots: readonly number[], isFirst: boolean): void =>
    void ejections.push({ slots, isFirst });
  const registers = new HotplugRegisters(new SharedState(buffer), ejected);
  const elsewhere = new HotplugRegisters(new SharedState(buffer), ejected);
  registers.reset(ejectable);
  return { registers, elsewhere, ejections };
}

t.test('what happened is read once, in whatever thread', async (t) => {
  const { registers, elsewhere } = rig([7]);
  registers.plugged(5);
  registers.plugged(31);
  registers.askBack(7);
  t.equal(elsewhere.read(UP, 4), 0x8000_0020);
  t.equal(registers.read(UP, 4), 0);
  t.equal(elsewhere.read(DOWN, 4), 0x80);
  t.equal(elsewhere.read(DOWN, 4), 0);
  registers.askBack(7);
  registers.withdraw(7);
  t.equal(elsewhere.read(DOWN, 4), 0, 'the guest had not looked');
  registers.removed(5, true);
  t.equal(elsewhere.read(UP, 4), 1, 'the bus, for a device that is missing');
});

t.test('a device is ejected once, and only what may be', async (t) => {
  const { registers, elsewhere, ejections } = rig([3, 4]);
  t.equal(registers.read(EJECT, 4), 0x18);
  elsewhere.write(EJECT, 4, 0xffff_ffff);
  elsewhere.write(EJECT, 4, 0xffff_ffff);
  t.same(ejections, [{ slots: [3, 4], isFirst: true }]);
  registers.plugged(9);
  elsewhere.write(EJECT, 4, 1 << 9);
  t.same(ejections.at(-1), { slots: [9], isFirst: false }, 'while the owner has not looked');
  t.same(registers.takeEjected(), [3, 4, 9]);
  t.same(registers.takeEjected(), []);
  registers.askBack(9);
  t.equal(registers.read(DOWN, 4), 0, 'it is not asked for what it has ejected');
});

t.test('only whole registers are there', async (t) => {
  const { registers, ejections } = rig([1]);
  registers.plugged(2);
  for (const [offset, size] of [
    [0, 1],
    [0, 2],
    [1, 4],
    [2, 4],
    [12, 4],
  ] as const) {
    t.equal(registers.read(offset, size), 0);
    registers.write(offset, size, 0xffff_ffff);
  }
  registers.write(UP, 4, 0xffff_ffff);
  registers.write(EJECT, 1, 0xff);
  t.same(ejections, []);
  t.equal(registers.read(UP, 4), 4, 'nothing was lost');
});

t.test('whatever a guest writes, it ejects what is there, once', async (t) => {
  const slot = fc.integer({ min: 1, max: 31 });
  const step = fc.oneof(
    fc.record({ do: fc.constant('plug' as const), slot }),
    fc.record({ do: fc.constant('take' as const), slot }),
    fc.record({
      do: fc.constant('write' as const),
      offset: fc.nat(16),
      size: fc.constantFrom(1, 2, 4),
      value: fc.nat(0xffff_ffff),
    }),
    fc.record({ do: fc.constant('read' as const), offset: fc.nat(16) }),
  );
  fc.assert(
    fc.property(fc.array(step, { maxLength: 60 }), (steps) => {
      const { registers, ejections } = rig();
      const there = new Set<number>();
      let unread = 0;
      for (const one of steps) {
        const before = ejections.length;
        if (one.do === 'plug') {
          if (there.has(one.slot)) continue;
          there.add(one.slot);
          registers.plugged(one.slot);
        } else if (one.do === 'take') {
          for (const gone of registers.takeEjected()) registers.removed(gone, false);
          unread = 0;
        } else if (one.do === 'read') {
          registers.read(one.offset, 4);
        } else {
          registers.write(one.offset, one.size, one.value);
        }
        for (const { slots, isFirst } of ejections.slice(before)) {
          if (isFirst !== (unread === 0)) return false;
          unread += slots.length;
          for (const gone of slots) if (!there.delete(gone)) return false;
        }
      }
      return true;
    }),
  );
  t.pass();
});
