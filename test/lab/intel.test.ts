/** nodevmm on Intel's virtualization: the lab under Bochs, with a real kvm_intel. One boot for all tests. */
import t from 'tap';
import { Lab } from '../../src/lab/lab.ts';

// A processor emulated step by step, on a host that has other things to do.
t.setTimeout(1_200_000);
const lab = await Lab.boot({ cpu: 'intel' });
t.teardown(() => lab.close());

/** No coverage of what runs there: it would not get out. */
const env = { NODE_V8_COVERAGE: '' };

t.test('the CPU is an Intel with VMX, and KVM has nested paging', async (t) => {
  const { stdout } = await lab.exec(['cat', '/proc/cpuinfo', '/proc/modules']);
  t.match(stdout.toString(), /^vendor_id\s*: GenuineIntel$/m);
  t.match(stdout.toString(), /^flags\s*:.* vmx\b/m);
  t.match(stdout.toString(), /^kvm_intel /m);
  const parameters = ['ept', 'unrestricted_guest', 'vpid'];
  const paths = parameters.map((name) => `/sys/module/kvm_intel/parameters/${name}`);
  t.equal((await lab.exec(['cat', ...paths])).stdout.toString(), 'Y\nY\nY\n');
});

t.test('statuses and streams come back', async (t) => {
  const end = await lab.exec(['sh', '-c', 'cat; echo err >&2; exit 42'], { input: 'in' });
  t.same([end.stdout.toString(), end.stderr.toString(), end.exitCode], ['in', 'err\n', 42]);
  t.equal((await lab.exec(['sh', '-c', 'kill -9 $$'])).exitCode, 137);
  await t.rejects(lab.exec(['/no/such/program']), { code: 'ENOENT' });
});

t.test(
  'a guest with two vCPUs pings the host through vhost-net; its status comes back',
  async (t) => {
    const script = 'nproc; ping -c 2 10.0.2.1 && exit 5';
    const net = 'auto,address=10.0.2.1/24,vhost=on';
    const { stdout, stderr, exitCode } = await lab.exec(
      [
        ...['nodevmm', 'run', '--no-lab', '--memory', '256M', '--cpus', '2', '--net', net],
        ...['--append', 'nodevmm.ip=10.0.2.2/24', '--', 'sh', '-c', script],
      ],
      { env },
    );
    t.match(stdout.toString(), /^2\n/);
    t.match(stdout.toString(), / 0% packet loss/);
    t.equal(exitCode, 5, stderr.toString());
  },
);
