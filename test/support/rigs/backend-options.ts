/** The options of one backend of a device type, checked as those of a machine are. */
import { InternalError } from '../../../src/host/errors.ts';
import { checkOptions } from '../../../src/options/option-schema.ts';
import type { DeviceType } from '../../../src/virtio/device-type.ts';

/** @throws UsageError when they are refused */
export function checkBackendOptions(
  { key, backends }: DeviceType<unknown>,
  name: string,
  given: object,
): unknown {
  const backend = backends.find((one) => one.name === name);
  if (backend === undefined) throw new InternalError(`no backend ${name}`);
  return checkOptions(backend.options, given, `${key}[0]`);
}
