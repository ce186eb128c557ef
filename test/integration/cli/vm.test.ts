/** `nodevmm vm` on the command line, against a machine in this process. */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { resolve } from 'node:path';
import { promisify } from 'node:util';
import t from 'tap';
import { AgentBroker } from '../../../src/agent/broker.ts';
import { AgentClient } from '../../../src/agent/client.ts';
import { PeerError } from '../../../src/host/errors.ts';
import { ControlServer } from '../../../src/machine/control/server.ts';
import { FakeVm } from '../../support/fakes/machine.ts';
import { startAgent } from '../../support/rigs/agent.ts';
import { testFolder } from '../../support/rigs/files.ts';

const folder = testFolder(t);
process.env.XDG_RUNTIME_DIR = folder;

async function nodevmm(...args: string[]): Promise<string> {
  const { stdout } = await promisify(execFile)(process.execPath, ['dist/src/cli/main.js', ...args]);
  return stdout;
}

const LINE = `web: process ${process.pid}, running; net0 userspace; 3 exits to userspace\n`;

t.test('machines are listed and controlled', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  t.equal(await nodevmm('vm', 'list'), LINE);
  t.equal(await nodevmm('vm', 'status'), LINE);
  t.equal(
    await nodevmm('vm', '--vm', 'web', 'move', 'net0', 'vhost'),
    LINE.replace('userspace', 'vhost'),
  );
  await nodevmm('vm', 'link', 'net0', 'down');
  t.same(vm.links, ['net0 false']);
  t.equal(await nodevmm('vm', 'add', 'disk', 'data.raw,ro'), 'blk1\n');
  await nodevmm('vm', 'add', 'rng');
  await nodevmm('vm', 'cpus', '4');
  await nodevmm('vm', 'remove', 'blk1');
  await nodevmm('vm', 'remove', 'blk1', '--force', '--timeout', '0');
  t.same(vm.queueCalls.splice(0), [
    `add ${JSON.stringify({ disks: [{ path: resolve('data.raw'), readOnly: true }] })}`,
    'add {"rng":{}}',
    'cpus 4 30000',
    'remove blk1 false undefined',
    'remove blk1 true 0',
  ]);
  await nodevmm('vm', 'resize', 'blk0', '20G');
  await nodevmm('vm', 'resize', 'blk0');
  t.same(vm.queueCalls.splice(0), [`resize blk0 ${20 * 2 ** 30}`, 'resize blk0 undefined']);
  t.match(await nodevmm('vm', 'pause'), 'paused');
});

t.test('the power button is pressed, and the end waited for', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  t.equal(await nodevmm('vm', 'shutdown'), '');
  t.same([vm.presses, vm.state], [1, 'ended']);
  vm.state = 'running';
  vm.listens = false;
  await t.rejects(nodevmm('vm', 'shutdown', '--timeout', '0'), {
    code: 203,
    stderr: /the guest of web did not power off within 0 s .* cuts its power\n$/,
  });
  t.same([vm.presses, vm.state], [2, 'running']);
  await t.rejects(nodevmm('vm', 'shutdown', '--timeout', 'soon'), { code: 2 });
});

t.test('what KVM counted: as columns without zeros, and all as JSON', async (t) => {
  using _server = await ControlServer.open(new FakeVm(), 'web');
  t.equal(await nodevmm('vm', 'statistics'), 'exits       12\nhalt_exits   7\n');
  const json = JSON.parse(await nodevmm('vm', 'statistics', '--json'));
  t.same(json, { exits: 12, halt_exits: 7, nmi_injections: 0 });
});

t.test('the balloon: what the guest keeps, and what it reports', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  await t.rejects(nodevmm('vm', 'balloon', '256M'), { code: 2, stderr: /no balloon/ });
  vm.kept = { target: 2 ** 29, current: 2 ** 29 };
  t.match(
    await nodevmm('vm', 'balloon', '256M'),
    '; balloon: the guest keeps 512 MiB, target 256 MiB\n',
  );
  t.equal(vm.kept.target, 2 ** 28);
  t.equal(
    await nodevmm('vm', 'balloon'),
    'target       256 MiB\ncurrent      512 MiB\nfree          64 MiB\nmajorFaults       12\n',
  );
  await t.rejects(nodevmm('vm', 'balloon', 'much'), { code: 2 });
});

t.test('the memory of its guest', async (t) => {
  const vm = new FakeVm();
  using _server = await ControlServer.open(vm, 'web');
  const rows = 'target   2048 MiB\ncurrent  1024 MiB\nmax      4096 MiB\n';
  t.equal(await nodevmm('vm', 'memory', '2G'), rows);
  t.equal(vm.memory.target, 2 ** 31);
  t.equal(await nodevmm('vm', 'memory'), rows);
});

t.test('a command in its guest: output, status, input', async (t) => {
  const { stream } = await startAgent();
  using agent = new AgentClient(stream);
  const broker = new AgentBroker(agent, new PeerError('E_GUEST_ENDED', 'stopped'));
  const vm = new FakeVm();
  vm.shareAgent = (client) => broker.serve(client);
  using _server = await ControlServer.open(vm, 'web');
  t.equal(await nodevmm('vm', 'exec', '--', 'echo', 'from the guest'), 'from the guest\n');
  await t.rejects(nodevmm('vm', 'exec', '--', 'sh', '-c', 'echo no >&2; exit 7'), {
    code: 7,
    stderr: 'no\n',
  });
  await t.rejects(nodevmm('vm', 'exec', '--', '/absent'), { code: 2, stderr: /absent/ });
  const argv = ['dist/src/cli/main.js', 'vm', 'exec', '--', 'sh', '-c', 'echo up; exec sleep 600'];
  const child = spawn(process.execPath, argv, { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  child.kill('SIGTERM');
  t.same(await once(child, 'exit'), [143, null]);
});

t.test('without a machine, one line and status 2', async (t) => {
  await t.rejects(nodevmm('vm', 'status'), { code: 2, stderr: /no machine is running; .*\n$/ });
  await t.rejects(nodevmm('vm', '--vm', 'db', 'stop'), { code: 2, stderr: /no machine named db/ });
});
