/** Worker thread of tests: runs one vCPU until its next exit, and reports it. */
import { parentPort, workerData } from 'node:worker_threads';
import { EAGAIN } from '../../src/abi/errno.ts';
import { kvm_run_io } from '../../src/abi/kvm.ts';
import * as sys from '../../src/host/syscall.ts';
import { Vcpu, type VcpuShare } from '../../src/kvm/vcpu.ts';

/** How the one KVM_RUN ended. */
export interface Outcome {
  /** What `Vcpu.enter` returned. */
  readonly result: number;
  readonly reason: number;
  /** For KVM_EXIT_IO. */
  readonly port: number;
}

const vcpu = new Vcpu(workerData as VcpuShare);
parentPort?.postMessage({ tid: sys.gettid() });
// An application processor that waits for its SIPI comes back once with -EAGAIN when that arrives.
let result = vcpu.enter();
while (result === -EAGAIN) result = vcpu.enter();
const outcome: Outcome = {
  result,
  reason: vcpu.exitReason,
  port: vcpu.run.getUint16(kvm_run_io.port.offset, true),
};
parentPort?.postMessage(outcome);
