/** The threads of several vCPUs when one of them crashes. */
import { once } from 'node:events';
import t from 'tap';
import { Vcpu, type VcpuShare } from '../../src/kvm/vcpu.ts';
import { Board, type BoardPlan } from '../../src/machine/board/board.ts';
import { VcpuThreads } from '../../src/machine/board/vcpu-threads.ts';
import { SharedState } from '../../src/state/shared-state.ts';
import { kvmMissing, TinyGuest } from './tiny-guest.ts';

/** Its thread finds no `kvm_run`, and throws. */
class CrashingVcpu extends Vcpu {
  override readonly share: VcpuShare;

  constructor(share: VcpuShare) {
    super(share);
    this.share = { ...share, runSize: 0 };
  }
}

t.test(
  'a crashed thread is reported; the others pause and stop',
  { skip: kvmMissing() },
  async (t) => {
    const code = [0xeb, 0xfe]; // jmp -2
    using guest = new TinyGuest({ code, cpus: 2 });
    const [first, second] = guest.vcpus as [Vcpu, Vcpu];
    const plan: BoardPlan = {
      buffer: SharedState.allocate(Board.stateSize(0)),
      vmFd: guest.vm.fd,
      cpus: 2,
      devices: [],
    };
    const board = new Board(plan, () => {});
    board.reset();
    const crash = new EventTarget();
    const crashed = once(crash, 'crash');
    const vcpus = [first, new CrashingVcpu(second.share)];
    const threads = new VcpuThreads(plan, board, vcpus, guest.memory.share, {
      message: () => {},
      crashed: (error) => crash.dispatchEvent(new CustomEvent('crash', { detail: error })),
    });
    threads.resume();
    const [event] = (await crashed) as [CustomEvent<Error>];
    t.type(event.detail, RangeError);
    await threads.pause();
    threads.resume();
    await threads.stop();
    t.pass('no thread is left');
  },
);
