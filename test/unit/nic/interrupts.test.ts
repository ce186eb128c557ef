/** SDM 13.4, ITR: the time between two interrupts of the emulated 82540EM. */
import t from 'tap';
import * as e1000 from '../../../src/abi/e1000.ts';
import { E1000Rig, frame, MAC } from '../../support/rigs/e1000.ts';

/** 256 ns each: a millisecond. */
const MILLISECOND = 3906.25;

function running(itr: number): E1000Rig {
  const rig = new E1000Rig();
  rig.start();
  rig.enableReceive(0, 64);
  rig.write(e1000.IMS, e1000.ICR_RXT0);
  rig.write(e1000.ITR, itr);
  rig.pump();
  return rig;
}

t.test('without it every packet interrupts', async (t) => {
  using rig = running(0);
  for (let i = 0; i < 3; i++) {
    rig.arrive(frame(MAC));
    t.ok(rig.line);
    t.equal(rig.read(e1000.ICR), e1000.ICR_RXT0);
  }
});

t.test('causes that come too early wait for the timer, and are reported together', async (t) => {
  using rig = running(2 * MILLISECOND);
  rig.arrive(frame(MAC));
  t.ok(rig.line, 'the first one is not too early');
  t.equal(rig.read(e1000.ICR), e1000.ICR_RXT0);
  rig.arrive(frame(MAC));
  rig.arrive(frame(MAC));
  t.equal(rig.read(e1000.RDH), 3, 'received they are');
  t.notOk(rig.line);
  t.equal(rig.read(e1000.ICR), 0);
  rig.time += 1;
  rig.wait();
  t.notOk(rig.line, 'half of it is over');
  rig.time += 1.5;
  rig.wait();
  t.ok(rig.line);
  t.equal(rig.read(e1000.ICR), e1000.ICR_RXT0);
  rig.time += 2.5;
  rig.arrive(frame(MAC));
  t.ok(rig.line, 'and after it at once');
});

t.test('a cause that is masked is no interrupt to count from', async (t) => {
  using rig = running(2 * MILLISECOND);
  rig.write(e1000.IMC, e1000.ICR_RXT0);
  rig.arrive(frame(MAC));
  t.equal(rig.read(e1000.ICR), e1000.ICR_RXT0);
  rig.write(e1000.IMS, e1000.ICR_RXT0);
  rig.arrive(frame(MAC));
  t.ok(rig.line);
});

t.test('a reset forgets pending causes; a stop reports them', async (t) => {
  using rig = running(2 * MILLISECOND);
  rig.arrive(frame(MAC));
  rig.read(e1000.ICR);
  rig.arrive(frame(MAC));
  rig.stop();
  t.ok(rig.line, 'signaled');
  rig.read(e1000.ICR);
  rig.start();
  rig.pump();
  rig.arrive(frame(MAC));
  rig.read(e1000.ICR);
  rig.arrive(frame(MAC));
  rig.write(e1000.CTRL, e1000.CTRL_RST);
  rig.pump();
  // The timer may have been over before the reset.
  rig.pump(50);
  rig.stop();
  t.equal(rig.read(e1000.ICR), 0, 'forgotten');
});
