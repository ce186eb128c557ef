/** Which interrupts a device raises, and which eventfds VFIO gets for them. */
import t from 'tap';
import { EBADF } from '../../../src/abi/errno.ts';
import * as abi from '../../../src/abi/vfio.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import {
  type InterruptFile,
  type InterruptPlan,
  VfioInterrupts,
} from '../../../src/vfio/interrupts.ts';

const NAMES = ['INTx', 'MSI', 'MSI-X'];

/** A device's file that remembers what was asked of it. */
class FakeFile implements InterruptFile {
  readonly calls: string[] = [];
  /** What the next calls return. */
  readonly results: number[] = [];

  setEventfds(index: number, start: number, eventfds: readonly number[], action?: number): number {
    const unmask = action === abi.VFIO_IRQ_SET_ACTION_UNMASK ? ' unmask' : '';
    this.calls.push(`${NAMES[index]}${unmask} ${start}: ${eventfds.join(' ')}`);
    return this.results.shift() ?? 0;
  }

  disableInterrupts(index: number): void {
    this.calls.push(`${NAMES[index]} off`);
  }

  take(): string[] {
    return this.calls.splice(0);
  }
}

function rig(plan: Partial<InterruptPlan> = {}) {
  const file = new FakeFile();
  const failed: number[] = [];
  const buffer = SharedState.allocate(0x1000);
  const make = (): VfioInterrupts =>
    new VfioInterrupts(
      new SharedState(buffer),
      file,
      { vmFd: -1, gsi: 16, eventfds: [10, 11, 12, 13], ...plan },
      (result) => failed.push(result),
    );
  const interrupts = make();
  interrupts.reset();
  return { file, failed, interrupts, other: make() };
}

t.test('at reset whatever was on goes off', async (t) => {
  const { file, failed } = rig();
  t.same(file.take(), ['INTx off', 'MSI off', 'MSI-X off']);
  t.same(failed, []);
});

t.test('MSI-X is on at once, its vectors once the driver unmasks them', async (t) => {
  const { file, interrupts, other } = rig();
  file.take();
  interrupts.useVector(2);
  t.same(file.take(), [], 'not yet enabled');
  interrupts.update({ msi: 0, msix: 4 });
  t.same(file.take(), ['MSI-X 0: -1 -1 -1 -1', 'MSI-X 2: 12']);
  other.update({ msi: 0, msix: 4 });
  other.useVector(2);
  t.same(file.take(), [], 'once, whatever thread');
  other.useVector(0);
  t.same(file.take(), ['MSI-X 0: 10']);
  t.same(interrupts.inspect(), { mode: 'MSI-X', used: 2, vectors: 4 });
  other.update({ msi: 0, msix: 0 });
  interrupts.update({ msi: 0, msix: 4 });
  t.same(file.take(), ['MSI-X off', 'MSI-X 0: -1 -1 -1 -1'], 'all are unused then');
});

t.test('a host with fewer vectors', async (t) => {
  const { file, failed, interrupts } = rig();
  file.take();
  file.results.push(2, 0, -28);
  interrupts.update({ msi: 0, msix: 4 });
  t.same(file.take(), ['MSI-X 0: -1 -1 -1 -1', 'MSI-X 0: -1 -1']);
  t.same(failed, []);
  interrupts.useVector(3);
  t.same(failed, [-28]);
});

t.test('MSI has as many vectors as the guest enabled, and yields to MSI-X', async (t) => {
  const { file, interrupts } = rig();
  file.take();
  interrupts.update({ msi: 2, msix: 0 });
  interrupts.update({ msi: 2, msix: 0 });
  t.same(file.take(), ['MSI 0: 10 11']);
  t.same(interrupts.inspect(), { mode: 'MSI', used: 2, vectors: 2 });
  interrupts.update({ msi: 4, msix: 0 });
  t.same(file.take(), ['MSI off', 'MSI 0: 10 11 12 13']);
  interrupts.update({ msi: 4, msix: 1 });
  t.same(file.take(), ['MSI off', 'MSI-X 0: -1']);
  interrupts.stop();
  interrupts.stop();
  t.same(file.take(), ['MSI-X off']);
});

t.test('the pin while no messages are enabled; what KVM refuses is reported', async (t) => {
  const { file, failed, interrupts } = rig({ pin: { trigger: -1, resample: -1 } });
  t.same(file.take().slice(3), ['INTx 0: -1', 'INTx unmask 0: -1']);
  t.same(failed, [-EBADF], 'no VM');
  t.same(interrupts.inspect(), { mode: 'INTx', used: 1, vectors: 1 });
  interrupts.update({ msi: 1, msix: 0 });
  t.same(file.take(), ['INTx off', 'MSI 0: 10']);
  interrupts.update({ msi: 0, msix: 0 });
  t.same(file.take(), ['MSI off', 'INTx 0: -1', 'INTx unmask 0: -1']);
});
