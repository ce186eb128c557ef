/** vDPA parents that Debian's kernels have not: two simulators, and the driver that makes them of virtio devices on PCI. */
import { buildModules } from '../../src/guest/own-modules.ts';
import { kernelSources } from './kernel-source.ts';

/** Those that need others come after them. */
const ORDER = ['vringh', 'vdpa_sim', 'vdpa_sim_blk', 'vdpa_sim_net', 'vp_vdpa'];
const KBUILD = `obj-m := ${ORDER.map((name) => `${name}.o`).join(' ')}\n`;
const PATHS = ['drivers/vhost/vringh.c', 'drivers/vdpa/vdpa_sim', 'drivers/vdpa/virtio_pci'];

/** Compiles them, once. @returns paths of the .ko files in the order in which they can be loaded */
export async function vdpaParents(kernelVersion: string): Promise<string[]> {
  const folder = await kernelSources(kernelVersion, PATHS, { Kbuild: KBUILD });
  const built = await buildModules(folder, kernelVersion);
  return ORDER.flatMap((name) => built.filter((path) => path.endsWith(`/${name}.ko`)));
}
