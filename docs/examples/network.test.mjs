// Three machines: a client, a router, a server, connected by cables. Needs esbuild. Run: node --test network.test.mjs
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { machineFor } from 'nodevmm/node-test';

const module = fileURLToPath(new URL('cable.mjs', import.meta.url));
const end = (from, to, mac) => ({
  module,
  options: { from: `${from}`, to: `${to}`, mac: `${mac}` },
});

test('a client reaches a server through a router', async (t) => {
  const boot = (...devices) => machineFor(t, { devices, memory: 128 * 2 ** 20, check: true });
  const client = await boot(end(47001, 47002, 1));
  const router = await boot(end(47002, 47001, 2), end(47003, 47004, 3));
  const server = await boot(end(47004, 47003, 4));
  const sh = async (vm, script) => {
    const { exitCode, stdout, stderr } = await vm.exec(['sh', '-ec', script]);
    assert.equal(exitCode, 0, `${script}\n${stdout}${stderr}`);
    return stdout.toString();
  };
  const up = (device, address) =>
    `ip address add ${address} dev ${device}; ip link set ${device} up`;

  await sh(client, `${up('eth0', '10.0.1.2/24')}; ip route add default via 10.0.1.1`);
  await sh(router, `${up('eth0', '10.0.1.1/24')}; ${up('eth1', '10.0.2.1/24')}`);
  await sh(server, `${up('eth0', '10.0.2.2/24')}; ip route add default via 10.0.2.1`);

  const ping = 'ping -c 1 -W 2 10.0.2.2 >/dev/null && echo reached || echo lost';
  assert.equal(await sh(client, ping), 'lost\n', 'the router does not forward yet');
  await sh(router, 'echo 1 >/proc/sys/net/ipv4/ip_forward');
  assert.equal(await sh(client, ping), 'reached\n');
  const route = await sh(client, 'traceroute -n -q 1 10.0.2.2');
  assert.match(route, /10\.0\.1\.1 .*\n.*10\.0\.2\.2 /);
  for (const vm of [client, router, server]) assert.deepEqual(vm.breaches, []);
});
