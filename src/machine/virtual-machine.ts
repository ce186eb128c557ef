/** The public API's entry: creates a machine where it can run. */
import { knownKvm } from '../kvm/probe.ts';
import { LocalMachine } from './local-machine.ts';
import { Machine } from './machine.ts';
import type { MachineOptions } from './options.ts';

/**
 * A virtual machine. `await using vm = await VirtualMachine.create({...})` releases everything
 * that it holds, whatever happens in between. It runs in this process, or in the lab (option `lab`).
 */
export abstract class VirtualMachine extends Machine {
  /**
   * Opens KVM, builds or finds the guest image, allocates guest RAM, opens disks and taps. The guest does not run
   * yet.
   * @throws UsageError or HostError, in one line, when something is unavailable; everything
   *   is released then. E_KVM: this host's KVM cannot run Linux (docs/errors.md)
   */
  static async create(options: MachineOptions): Promise<VirtualMachine> {
    // Programs in JavaScript may pass nothing, which is refused below.
    const lab = (options as MachineOptions | undefined)?.lab;
    if (lab !== 'always' && (lab !== 'auto' || knownKvm().usable)) {
      return await LocalMachine.create(options);
    }
    // Few programs need it.
    const { LabMachine } = await import('./control/lab-machine.ts');
    return await LabMachine.boot(options);
  }

  /** The classes of machines extend `Machine`, which this one only adds its functions to. */
  static override [Symbol.hasInstance](value: unknown): boolean {
    return value instanceof Machine;
  }
}
