/** Where the queues of a vDPA device are served, as far as its place in sysfs shows. */
import { realpathSync, statSync } from 'node:fs';

/** `process`: by VDUSE. `kernel`: a simulator, for example. `hardware`: a PCI function. */
export type ParentPlace = 'process' | 'kernel' | 'hardware';

/** @param folder of the device in sysfs, without symbolic links */
export function placeOf(folder: string): ParentPlace {
  if (folder.startsWith('/sys/devices/virtual/vduse/')) return 'process';
  return folder.startsWith('/sys/devices/pci') ? 'hardware' : 'kernel';
}

/** @param path `/dev/vhost-vdpa-0`. @returns undefined when the host does not show it */
export function parentPlace(path: string): ParentPlace | undefined {
  try {
    const { rdev } = statSync(path);
    // dev_t as in glibc's <sys/sysmacros.h>, of which the kernel uses 32 bits.
    const [major, minor] = [(rdev >>> 8) & 0xfff, (rdev & 0xff) | ((rdev >>> 12) & 0xf_ff00)];
    return placeOf(realpathSync(`/sys/dev/char/${major}:${minor}`));
  } catch {
    return undefined;
  }
}
