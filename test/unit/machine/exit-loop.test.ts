/** What a vCPU thread makes of exits, with a vCPU and a board that a test plays. */
import t from 'tap';
import { EAGAIN, EFAULT, EINTR } from '../../../src/abi/errno.ts';
import { kvm_run, kvm_run_io, kvm_run_mmio, kvm_run_system_event } from '../../../src/abi/kvm.ts';
import * as exit from '../../../src/abi/kvm-constants.ts';
import {
  KVM_SYSTEM_EVENT_CRASH,
  KVM_SYSTEM_EVENT_RESET,
  KVM_SYSTEM_EVENT_SHUTDOWN,
} from '../../../src/abi/kvm-ioctl.ts';
import type { Vcpu } from '../../../src/kvm/vcpu.ts';
import type { Board } from '../../../src/machine/board/board.ts';
import { ExitLoop, type LoopEnd } from '../../../src/machine/board/exit-loop.ts';
import { SharedState } from '../../../src/state/shared-state.ts';
import {
  REQUEST_HOLD,
  REQUEST_PAUSE,
  REQUEST_RUN,
  REQUEST_STOP,
  VcpuControl,
} from '../../../src/state/vcpu-control.ts';

const DATA_OFFSET = 0x1000;

/** One entry into the guest: fills kvm_run in and returns what KVM_RUN does. */
type Step = (run: DataView) => number;

/** Runs a loop through these exits; then a triple fault ends it. */
class LoopRig {
  readonly calls: string[] = [];
  readonly run = new DataView(new ArrayBuffer(0x2000));
  readonly control = new VcpuControl(new SharedState(SharedState.allocate(0x1000)), 1);
  readonly loop: ExitLoop;
  readonly vcpu = {
    share: { id: 0 },
    run: this.run,
    immediateExit: false,
    enter: (): number => {
      const step = this.#steps.shift();
      if (step !== undefined) return step(this.run);
      return exits(exit.KVM_EXIT_SHUTDOWN)(this.run);
    },
    completeExit: () => this.calls.push('complete'),
  };
  #steps: Step[] = [];

  constructor() {
    const board = {
      control: this.control,
      readPort: (port: number, size: number) => {
        this.calls.push(`in ${port.toString(16)} ${size}`);
        return 0x8899_aabb % 2 ** (8 * size);
      },
      writePort: (port: number, size: number, value: number) => {
        this.calls.push(`out ${port.toString(16)} ${size} ${value.toString(16)}`);
      },
      readMemory: (address: number, size: number) => {
        this.calls.push(`read ${address.toString(16)} ${size}`);
        return 0x8899_aabb % 2 ** (8 * size);
      },
      writeMemory: (address: number, size: number, value: number) => {
        this.calls.push(`write ${address.toString(16)} ${size} ${value.toString(16)}`);
      },
    };
    this.loop = new ExitLoop(this.vcpu as unknown as Vcpu, board as unknown as Board, () => {
      this.calls.push('paused');
      this.atRest();
    });
  }

  /** What the main thread does when the vCPU has come to rest. */
  atRest: () => void = () => {};

  through(...steps: Step[]): LoopEnd {
    this.#steps = steps;
    return this.loop.run(4711);
  }
}

function exits(reason: number, fill: (run: DataView) => void = () => {}): Step {
  return (run) => {
    run.setUint32(kvm_run.exit_reason.offset, reason, true);
    fill(run);
    return 0;
  };
}

function io(isOut: boolean, port: number, size: number, data: readonly number[]): Step {
  return exits(exit.KVM_EXIT_IO, (run) => {
    run.setUint8(kvm_run_io.direction.offset, isOut ? exit.KVM_EXIT_IO_OUT : exit.KVM_EXIT_IO_IN);
    run.setUint8(kvm_run_io.size_.offset, size);
    run.setUint16(kvm_run_io.port.offset, port, true);
    run.setUint32(kvm_run_io.count.offset, data.length / size, true);
    run.setUint32(kvm_run_io.data_offset.offset, DATA_OFFSET, true);
    new Uint8Array(run.buffer).set(data, DATA_OFFSET);
  });
}

function mmio(isWrite: boolean, address: bigint, length: number): Step {
  return exits(exit.KVM_EXIT_MMIO, (run) => {
    run.setBigUint64(kvm_run_mmio.phys_addr.offset, address, true);
    for (let i = 0; i < 8; i++) run.setUint8(kvm_run_mmio.data.offset + i, 0x11 * (i + 1));
    run.setUint32(kvm_run_mmio.len.offset, length, true);
    run.setUint8(kvm_run_mmio.is_write.offset, isWrite ? 1 : 0);
  });
}

t.test('KVM API §5 KVM_EXIT_IO: writes to ports, of every width', async (t) => {
  const rig = new LoopRig();
  rig.through(
    io(true, 0x3f8, 1, [0x61]),
    io(true, 0x600, 2, [0x34, 0x12]),
    io(true, 0xcf8, 4, [0xf0, 0xde, 0xbc, 0x9a]),
  );
  t.same(rig.calls, ['out 3f8 1 61', 'out 600 2 1234', 'out cf8 4 9abcdef0']);
});

t.test('KVM API §5 KVM_EXIT_IO: reads land at data_offset', async (t) => {
  const rig = new LoopRig();
  rig.through(io(false, 0x60, 1, [0]), io(false, 0xcfc, 4, [0, 0, 0, 0]));
  t.same(rig.calls, ['in 60 1', 'in cfc 4']);
  t.equal(rig.run.getUint32(DATA_OFFSET, true), 0x8899_aabb);
});

t.test('KVM API §5 KVM_EXIT_IO: a string instruction is that many accesses', async (t) => {
  const rig = new LoopRig();
  rig.through(io(true, 0x3f8, 1, [...Buffer.from('abc')]), io(false, 0x10, 2, [0, 0, 0, 0]));
  t.same(rig.calls, ['out 3f8 1 61', 'out 3f8 1 62', 'out 3f8 1 63', 'in 10 2', 'in 10 2']);
  t.equal(rig.run.getUint32(DATA_OFFSET, true), 0xaabb_aabb);
});

t.test('KVM API §5 KVM_EXIT_MMIO: addresses beyond 32 bits', async (t) => {
  const rig = new LoopRig();
  rig.through(mmio(true, 0x1f_c000_0010n, 4), mmio(false, 0xffff_ffffn, 1));
  t.same(rig.calls, ['write 1fc0000010 4 44332211', 'read ffffffff 1']);
  t.equal(rig.run.getUint8(kvm_run_mmio.data.offset), 0xbb);
});

t.test('KVM API §5 KVM_EXIT_MMIO: 8 bytes are two accesses, the low half first', async (t) => {
  const rig = new LoopRig();
  rig.through(mmio(true, 0xc000_0020n, 8), mmio(false, 0xc000_0020n, 8));
  t.same(rig.calls, [
    'write c0000020 4 44332211',
    'write c0000024 4 88776655',
    'read c0000020 4',
    'read c0000024 4',
  ]);
  t.equal(rig.run.getBigUint64(kvm_run_mmio.data.offset, true), 0x8899_aabb_8899_aabbn);
});

t.test('KVM API §5 KVM_EXIT_MMIO: registers are only accessed in 1, 2 or 4 bytes', async (t) => {
  // What crosses a page comes in two exits of any length.
  for (const [length, pieces] of [
    [3, ['write 1000 2 2211', 'write 1002 1 33']],
    [5, ['write 1000 4 44332211', 'write 1004 1 55']],
    [6, ['write 1000 4 44332211', 'write 1004 2 6655']],
    [7, ['write 1000 4 44332211', 'write 1004 2 6655', 'write 1006 1 77']],
  ] as const) {
    const rig = new LoopRig();
    rig.through(mmio(true, 0x1000n, length));
    t.same(rig.calls, pieces, `${length} bytes`);
  }
});

for (const [reason, end] of [
  [exit.KVM_EXIT_SHUTDOWN, 'triple-fault'],
  [exit.KVM_EXIT_INTERNAL_ERROR, 'unhandled'],
  [exit.KVM_EXIT_FAIL_ENTRY, 'unhandled'],
  [0xffff, 'unhandled'],
] as const) {
  t.test(`KVM API §5 exit ${reason} ends the loop as ${end}`, async (t) => {
    t.equal(new LoopRig().through(exits(reason)), end);
  });
}

for (const [event, end] of [
  [KVM_SYSTEM_EVENT_SHUTDOWN, 'power-off'],
  [KVM_SYSTEM_EVENT_RESET, 'reboot'],
  [KVM_SYSTEM_EVENT_CRASH, 'panic'],
  [77, 'unhandled'],
] as const) {
  t.test(`KVM API §5 KVM_EXIT_SYSTEM_EVENT ${event} ends the loop as ${end}`, async (t) => {
    const step = exits(exit.KVM_EXIT_SYSTEM_EVENT, (run) => {
      run.setUint32(kvm_run_system_event.type.offset, event, true);
    });
    t.equal(new LoopRig().through(step), end);
  });
}

t.test('KVM API 4.10 EINTR and EAGAIN are no failures, other errors are', async (t) => {
  const rig = new LoopRig();
  rig.vcpu.immediateExit = true;
  const end = rig.through(
    () => -EINTR,
    () => -EAGAIN,
    () => -EFAULT,
  );
  t.equal(end, 'failed');
  t.equal(rig.loop.errno, EFAULT);
  t.equal(rig.vcpu.immediateExit, false, 'or the guest would never run again');
});

t.test('a requested stop ends the loop before the guest runs', async (t) => {
  const rig = new LoopRig();
  rig.control.request = REQUEST_STOP;
  t.equal(
    rig.through(() => t.fail('entered') as never),
    'stopped',
  );
});

t.test('a kick ends the loop when a stop is requested', async (t) => {
  const rig = new LoopRig();
  const end = rig.through(() => {
    rig.control.request = REQUEST_STOP;
    rig.vcpu.immediateExit = true;
    return -EINTR;
  });
  t.equal(end, 'stopped');
  t.equal(rig.control.threadId(0), 4711);
});

t.test('a pause completes the last exit, reports once, and continues on request', async (t) => {
  const rig = new LoopRig();
  rig.atRest = () => {
    rig.control.request = REQUEST_RUN;
  };
  const end = rig.through(
    () => {
      rig.control.request = REQUEST_PAUSE;
      return -EINTR;
    },
    io(true, 0x80, 1, [1]),
  );
  t.equal(end, 'triple-fault');
  t.same(rig.calls, ['complete', 'paused', 'out 80 1 1']);
});

t.test('a pause after a run too short to be noticed is reported, too', async (t) => {
  const rig = new LoopRig();
  let rests = 0;
  rig.control.request = REQUEST_PAUSE;
  rig.atRest = () => {
    rig.control.request = REQUEST_RUN;
    if (++rests < 3) rig.control.request = REQUEST_PAUSE;
  };
  t.equal(rig.through(), 'triple-fault');
  t.equal(rests, 3);
});

t.test('before its guest is loaded a vCPU is left alone', async (t) => {
  const rig = new LoopRig();
  rig.control.request = REQUEST_HOLD;
  const waitWhile = rig.control.waitWhile.bind(rig.control);
  rig.control.waitWhile = (ticket) => {
    rig.control.request = REQUEST_RUN;
    waitWhile(ticket);
  };
  t.equal(rig.through(), 'triple-fault');
  t.same(rig.calls, []);
});

t.test('a stop ends a pause', async (t) => {
  const rig = new LoopRig();
  rig.control.request = REQUEST_PAUSE;
  rig.atRest = () => {
    rig.control.request = REQUEST_STOP;
  };
  t.equal(rig.through(), 'stopped');
});

t.test('exits are counted by reason, unknown ones together', async (t) => {
  const rig = new LoopRig();
  rig.through(io(true, 0x80, 1, [1]), io(true, 0x80, 1, [1]), exits(12345));
  const counters = rig.control.exitCounters(0);
  t.equal(counters[exit.KVM_EXIT_IO], 2);
  t.equal(counters.at(-1), 1);
});
