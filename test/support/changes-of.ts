/** What a driver made happen in a device's registers, in words. */

import {
  CHANGE_CONFIG,
  CHANGE_DRIVER_OK,
  CHANGE_INTERRUPTS,
  CHANGE_QUEUES,
  CHANGE_RESET,
  type DeviceRegisters,
} from '../../src/virtio/transport/device-registers.ts';

/** Takes the changes, as the owner does. */
export function changesOf(registers: DeviceRegisters): string[] {
  const changes = registers.changes.take();
  const said: string[] = [];
  if ((changes & CHANGE_DRIVER_OK) !== 0) said.push('driver ok');
  if ((changes & CHANGE_RESET) !== 0) said.push('reset');
  if ((changes & CHANGE_QUEUES) !== 0) said.push('queues changed');
  if ((changes & CHANGE_INTERRUPTS) !== 0) said.push('interrupts changed');
  if ((changes & CHANGE_CONFIG) !== 0) {
    for (const { offset, length } of registers.config.takeWritten()) {
      const bytes = Array.from({ length }, (_, i) => registers.config.view.getUint8(offset + i));
      said.push(`config ${offset}: ${bytes.map((byte) => byte.toString(16)).join(' ')}`);
    }
  }
  return said;
}
