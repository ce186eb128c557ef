/**
 * The power management capability (PCI Power Management 1.2 §3.2): D0 and D3hot, without PME. In D3hot a function
 * answers in configuration space only (§5.4.1). Nothing is lost there, but No_Soft_Reset stays 0: from 6.11 on, Linux's
 * virtio drivers would take it to mean that nothing is lost in a sleep of the machine either, where all is (S3).
 */
import { PCI_CAP_ID_PM } from '../abi/pci.ts';
import type { SharedState } from '../state/shared-state.ts';
import type { PciFunction } from './function.ts';

/** Version 3 of the capability; no D1, no D2, PME from no state. */
const PMC = 3;
/** Offset of PMCSR, and the bits in its lower byte. */
const PMCSR = 4;
const POWER_STATE = 3;

export const PCI_D0 = 0;
export const PCI_D3HOT = 3;

/** Gives a function the capability, at the end of its list. */
export function addPowerManagement(pciFunction: PciFunction, state: SharedState): void {
  /** The power state that it is in. */
  const words = state.words(1);
  const { config } = pciFunction;
  const offset = pciFunction.addCapability({
    id: PCI_CAP_ID_PM,
    body: Uint8Array.of(PMC, 0, PCI_D0, 0, 0, 0),
    writeMask: Uint8Array.of(0, 0, POWER_STATE, 0, 0, 0),
    written: () => {
      const written = config.getUint8(offset + PMCSR);
      const wanted = written & POWER_STATE;
      const old = words[0] ?? PCI_D0;
      // §3.2.4: a write of a state that is not supported completes, and changes nothing.
      const next = wanted === PCI_D0 || wanted === PCI_D3HOT ? wanted : old;
      config.setUint8(offset + PMCSR, (written & ~POWER_STATE) | next);
      if (next === old) return;
      words[0] = next;
      pciFunction.updateDecoding();
    },
  });
  pciFunction.bars.isPowered = () => (config.getUint8(offset + PMCSR) & POWER_STATE) === PCI_D0;
  pciFunction.wasReset = () => {
    words[0] = PCI_D0;
  };
}
