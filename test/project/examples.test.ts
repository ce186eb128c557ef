/** Those of the examples that need no guest. */
import t from 'tap';
import {
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
  VIRTIO_BLK_S_UNSUPP,
  VIRTIO_BLK_T_FLUSH,
  VIRTIO_BLK_T_IN,
  VIRTIO_BLK_T_OUT,
} from '../../src/abi/virtio-blk.ts';
import type { MachineMetrics } from '../../src/index.ts';
import { loadDevice } from '../../src/machine/user-devices/load-device.ts';
import { TestDriver } from '../../src/testing/index.ts';
import { blkHeader } from '../support/rigs/blk-driver.ts';

const { prometheusText } = (await import(
  new URL('../../../docs/examples/metrics.mjs', import.meta.url).href
)) as { prometheusText: (machine: string, metrics: MachineMetrics) => string };

t.test('metrics as Prometheus reads them', async (t) => {
  const text = prometheusText('a "quoted\\name"', {
    state: 'running',
    exits: { KVM_EXIT_IO: 12, KVM_EXIT_MMIO: 3 },
    kvm: { exits: 400 },
    droppedOutput: { console: 0, serial: 7 },
    breaches: 1,
  });
  const name = String.raw`machine="a \"quoted\\name\""`;
  t.same(
    text.split('\n').filter((line) => !line.startsWith('#')),
    [
      `nodevmm_up{${name}} 1`,
      `nodevmm_exits_total{${name},reason="KVM_EXIT_IO"} 12`,
      `nodevmm_exits_total{${name},reason="KVM_EXIT_MMIO"} 3`,
      `nodevmm_kvm_stat{${name},name="exits"} 400`,
      `nodevmm_dropped_bytes_total{${name},stream="console"} 0`,
      `nodevmm_dropped_bytes_total{${name},stream="serial"} 7`,
      `nodevmm_breaches{${name}} 1`,
      '',
    ],
  );
  const families = [...text.matchAll(/^# TYPE (\w+) (counter|gauge|untyped)$/gm)];
  t.equal(families.length, 5);
  for (const [, family] of families) t.match(text, `# HELP ${family} `);
});

t.test('a computed disk: what it computes, what was written, and its end', async (t) => {
  using loaded = await loadDevice('docs/examples/computed-disk.ts');
  using driver = new TestDriver(loaded.define, { options: { mib: '1' } });
  t.equal(driver.readConfig('capacity'), 2048);
  const read = async (sector: number): Promise<{ text: string; status: number | undefined }> => {
    const header = blkHeader(VIRTIO_BLK_T_IN, sector);
    const bytes = Buffer.from(await driver.request('requestq', header, 1025));
    return { text: bytes.toString('latin1', 0, 1024), status: bytes[1024] };
  };
  const first = await read(7);
  t.match(first.text, /^sector 7\n(sector 7\n)+/);
  t.equal(first.text.indexOf('sector 8\n'), 512);
  const write = Buffer.concat([blkHeader(VIRTIO_BLK_T_OUT, 7), Buffer.alloc(512, 'mine')]);
  t.same([...(await driver.request('requestq', write, 1))], [VIRTIO_BLK_S_OK]);
  t.match((await read(7)).text, /^(mine)+sector 8\n/);
  t.equal((await read(2046)).status, VIRTIO_BLK_S_OK);
  t.equal((await read(2047)).status, VIRTIO_BLK_S_IOERR);
  const flush = await driver.request('requestq', blkHeader(VIRTIO_BLK_T_FLUSH, 0), 1);
  t.same([...flush], [VIRTIO_BLK_S_UNSUPP]);
});
