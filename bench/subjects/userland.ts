/** A subject whose guest drives its network interface in userland: DPDK's testpmd, which only answers pings. */

import { findProgram } from '../../src/guest/programs.ts';
import { AsyncCleanupStack } from '../../src/host/cleanup-stack.ts';
import { type RunningGuest, run, type Subject } from './subject.ts';
import { lacksTestpmd, TESTPMD } from './testpmd.ts';

/** The share that its guest needs: programs of the host run there. */
export const USR = { tag: 'usr', source: '/usr', readOnly: true } as const;

/** Makes /dpdk a root in which programs of the host run. */
export const PREPARE = `
  mkdir -p /dpdk/usr /dpdk/proc /dpdk/sys /dpdk/dev /dpdk/tmp /dpdk/var/run /dpdk/etc /dev/hugepages
  mount -t virtiofs usr /dpdk/usr
  for folder in bin lib lib64 sbin; do ln -s usr/$folder /dpdk/$folder; done
  echo 64 >/proc/sys/vm/nr_hugepages
  mount -t hugetlbfs hugepages /dev/hugepages
  for folder in proc sys dev; do mount --rbind /$folder /dpdk/$folder; done
  modprobe virtio_net`;

/** Takes a PCI device from Linux's driver, for one that hands it to a program. */
export const take = (address: string, driver = 'uio_pci_generic'): string => `
  modprobe -a vfio_iommu_type1 ${driver}
  echo 1 >/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts
  cd /sys/bus/pci/devices/${address}
  echo ${address} >driver/unbind
  echo ${driver} >driver_override
  echo ${address} >/sys/bus/pci/drivers_probe
  test "$(basename $(readlink driver))" = ${driver}`;

const LOG = '/tmp/testpmd';
/** Prints statistics instead of waiting for a key, and runs both of its threads on the only CPU. */
const start = (program: string, address: string): string => `
  setsid chroot /dpdk ${program} --lcores=0@0,1@0 --no-telemetry -a ${address} -- --forward-mode=icmpecho \
    --total-num-mbufs=4096 --stats-period=1 >${LOG} 2>&1 </dev/null &
  for try in $(seq 100); do
    if grep -q 'Port statistics' ${LOG}; then exit 0; fi
    sleep 0.3
  done
  cat ${LOG} >&2
  exit 1`;

/** The same subject, with that driver. Its machine has the share USR. */
export function inUserland<S extends Subject>(subject: S): S {
  return {
    ...subject,
    echoes: true,
    rests: true,
    lacking: () => lacksTestpmd() ?? subject.lacking?.(),
    async boot(spec): Promise<RunningGuest> {
      await using opened = new AsyncCleanupStack();
      const guest = opened.use(await subject.boot(spec));
      const sh = (script: string): Promise<string> => run(guest, ['sh', '-ec', script]);
      await sh(PREPARE);
      const address = await sh('basename "$(readlink -f /sys/class/net/eth0/device/..)"');
      await sh(take(address.trim()));
      await sh(start(findProgram(TESTPMD) ?? TESTPMD, address.trim()));
      opened.move();
      return guest;
    },
  };
}
