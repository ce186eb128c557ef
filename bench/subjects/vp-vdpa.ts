/**
 * Subjects whose network interface is a virtio card of the host as a vDPA device: vp_vdpa drives the card, and the guest's VMM has it
 * by vhost_vdpa.
 */
import { existsSync, writeFileSync } from 'node:fs';
import { findProgram, run } from '../../src/guest/programs.ts';
import { AsyncCleanupStack } from '../../src/host/cleanup-stack.ts';
import { vdpaFile } from './served.ts';
import type { GuestSpec, RunningGuest, Subject } from './subject.ts';

const PCI = '/sys/bus/pci';
const DRIVER = 'vp-vdpa';

/** The same subject, with a card of its own. */
export function overVpVdpa<S extends Subject>(subject: S): S {
  return {
    ...subject,
    passes: 'virtio',
    lacking: () => lacksVpVdpa() ?? subject.lacking?.(),
    boot: (spec) => boot(subject, spec),
  };
}

/** What this host lacks for it. */
function lacksVpVdpa(): string | undefined {
  if (findProgram('vdpa') === undefined) return 'no vdpa; apt-get install iproute2';
  if (!existsSync(`${PCI}/drivers/${DRIVER}`)) {
    return 'no driver vp_vdpa; modprobe vp_vdpa, as root (Debian’s kernels have none)';
  }
  const has = existsSync('/sys/bus/vdpa/drivers/vhost_vdpa');
  return has ? undefined : 'no vhost_vdpa; modprobe vhost_vdpa, as root';
}

async function boot(
  subject: Subject,
  { vfio: address = '', ...spec }: GuestSpec,
): Promise<RunningGuest> {
  await using opened = new AsyncCleanupStack();
  const device = `${PCI}/devices/${address}`;
  opened.defer(() => bind(device, address, '\n'));
  bind(device, address, DRIVER);
  const name = `bench-${address.replace(/[:.]/g, '-')}`;
  const remedy = 'see "vdpa mgmtdev show"';
  await run(['vdpa', 'dev', 'add', 'name', name, 'mgmtdev', `pci/${address}`], remedy);
  opened.defer(async () => {
    await run(['vdpa', 'dev', 'del', name], 'remove it by hand');
  });
  const vdpa = await vdpaFile(name);
  const guest = opened.use(await subject.boot({ ...spec, vdpa, vdpaInHardware: true }));
  const resources = opened.move();
  return { ...guest, [Symbol.asyncDispose]: () => resources.disposeAsync() };
}

/** Has another driver take it. @param driver a line end: the one that it had at first */
function bind(device: string, address: string, driver: string): void {
  writeFileSync(`${device}/driver_override`, driver);
  if (existsSync(`${device}/driver`)) writeFileSync(`${device}/driver/unbind`, address);
  writeFileSync(`${PCI}/drivers_probe`, address);
}
