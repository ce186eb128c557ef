/** The host bridge in slot 0: it has no registers of its own; guests look for one to trust the bus. */
import type { InterruptController } from '../bus/interrupt-controller.ts';
import type { SharedState } from '../state/shared-state.ts';
import { PciFunction } from './function.ts';

/** A host bridge under Red Hat's IDs for emulated PCIe hosts, which no driver binds to. */
export function createHostBridge(state: SharedState, interrupts: InterruptController): PciFunction {
  return new PciFunction(state, interrupts, 'host-bridge', {
    vendorId: 0x1b36,
    deviceId: 0x0008,
    revision: 0,
    classCode: 0x06_0000,
    subsystemVendorId: 0x1af4,
    subsystemId: 0x1100,
    interruptPin: false,
  });
}
