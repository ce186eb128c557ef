/** A driver in the guest's userland: DPDK's virtio PMD on uio_pci_generic, next to Linux's own. */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { promisify } from 'node:util';
import t from 'tap';
import { PREPARE, take, USR } from '../../../bench/subjects/userland.ts';
import type { GuestProcess, NetOptions, VirtualMachine } from '../../../src/index.ts';
import { MiB } from '../../../src/memory/ram-layout.ts';
import { boxesIn, drawingOf, stepsOf } from '../../support/rigs/drawing.ts';
import { bootGuest, guestShell } from '../../support/rigs/guest.ts';
import { programPath } from '../../support/rigs/host.ts';

const giveBack = (address: string): string => `
  cd /sys/bus/pci/devices/${address}
  echo ${address} >driver/unbind
  echo >driver_override
  echo ${address} >/sys/bus/pci/drivers_probe
  test "$(basename $(readlink driver))" = virtio-pci`;

/** testpmd in the guest, asked by its prompt. */
class Testpmd {
  readonly #process: GuestProcess;
  #output = '';

  constructor(vm: VirtualMachine, program: string, address: string, args: readonly string[]) {
    const [device, ...rest] = args;
    const eal = ['-l', '0,1', '--no-telemetry', '-a', [address, device].filter(Boolean).join(',')];
    const testpmd = ['--interactive', '--forward-mode=icmpecho', '--total-num-mbufs=4096', ...rest];
    // On a terminal it prints line by line.
    const tty = { columns: 200, rows: 50 };
    this.#process = vm.spawn(['chroot', '/dpdk', program, ...eal, '--', ...testpmd], { tty });
    for (const stream of [this.#process.stdout, this.#process.stderr]) {
      stream.on('data', (bytes: Buffer) => {
        this.#output += bytes;
      });
    }
  }

  /**
   * Sends a command and returns what was printed since, once `answer` is in it: a prompt may be
   * that of the command before, which does no harm to one that has no answer. '' sends nothing.
   */
  async ask(command: string, answer = /testpmd> $/): Promise<string> {
    const from = this.#output.length;
    if (command !== '') this.#process.stdin.write(`${command}\n`);
    const ended = this.#process.exit.then(() => true);
    while (!answer.test(this.#output.slice(from))) {
      const next = once(this.#process.stdout, 'data').then(() => false);
      if (await Promise.race([ended, next])) throw new Error(`testpmd ended:\n${this.#output}`);
    }
    return this.#output.slice(from);
  }

  async quit(): Promise<number> {
    this.#process.stdin.write('quit\n');
    return (await this.#process.exit).exitCode;
  }
}

/** Whether the guest answers pings from this host. */
async function ping(address: string): Promise<string> {
  const args = ['ping', '-c', '3', '-W', '20', address];
  const { stdout } = await promisify(execFile)(programPath('busybox'), args);
  return stdout;
}

const rings: readonly (readonly [name: string, net: NetOptions, args: readonly string[]])[] = [
  ['split', { ring: {} }, ['']],
  ['split, vectorized, in-order', { ring: { inOrder: true } }, ['vectorized=1']],
  ['packed', { ring: { packed: true } }, ['']],
  ['two queue pairs', { queues: 2 }, ['', '--rxq=2', '--txq=2']],
];

t.test('testpmd drives every kind of ring, and gives the device back', async (t) => {
  const nets = rings.map(([, net], index) => ({ hostAddress: `10.0.${index}.1/24`, ...net }));
  const fileSystems = [USR];
  const machine = { memory: 1024 * MiB, cpus: 2, nets, fileSystems };
  await using vm = await bootGuest({ image: 'tools', machine });
  await guestShell(vm, PREPARE);
  const addresses = await guestShell(
    vm,
    'for i in 0 1 2 3; do basename $(readlink -f /sys/class/net/eth$i/device/..); done',
  );
  const program = programPath('dpdk-testpmd');
  for (const [index, address] of addresses.split('\n').entries()) {
    const [name = '', , args = []] = rings[index] ?? [];
    await t.test(name, async (t) => {
      await guestShell(vm, take(address));
      const testpmd = new Testpmd(vm, program, address, args);
      await testpmd.ask('');
      await testpmd.ask('start');
      t.match(await ping(`10.0.${index}.2`), / 0% packet loss/);
      const drawn = await drawingOf(vm, `net${index}`);
      t.match(stepsOf(drawn), ['rings guestUser vmm: shared memory'], 'drawn as it is');
      t.same(boxesIn(drawn, 'guestKernel'), ['uio_pci_generic']);
      if (index === 0) {
        await testpmd.ask('stop');
        await testpmd.ask('port stop all');
        await testpmd.ask('port start all');
        await testpmd.ask('mac_addr add 0 02:00:00:00:00:77');
        t.match(
          await testpmd.ask('show port 0 macs', /Number of MAC[\s\S]*testpmd> /),
          /02:00:00:00:00:77/i,
        );
        await testpmd.ask('start');
        t.match(await ping(`10.0.${index}.2`), / 0% packet loss/, 'stopped and started');
      }
      t.match(
        await testpmd.ask('show port stats all', /RX-packets: *\d[\s\S]*testpmd> /),
        /RX-packets: *[1-9]/,
      );
      t.equal(await testpmd.quit(), 0);
      const interface_ = await guestShell(
        vm,
        `${giveBack(address)}
         until ls virtio*/net >/dev/null 2>&1; do sleep 0.1; done
         name=$(ls virtio*/net)
         ip address add 10.0.${index}.3/24 dev $name
         ip link set $name up
         echo $name`,
      );
      t.match(await ping(`10.0.${index}.3`), / 0% packet loss/, `Linux has it back: ${interface_}`);
    });
  }
});
