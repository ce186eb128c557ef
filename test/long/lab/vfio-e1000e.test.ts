/** VFIO with a network card that is not virtio: e1000e with MSI-X and with INTx, and its extended configuration space. */
import t from 'tap';
import { IPERF, Switch, VfioLab } from '../../support/rigs/vfio-lab.ts';

const CARD = '0000:00:14.0';
const network = new Switch(0x13, ['e1000e,addr=0x14']);
// Emulation takes its time on a busy host; a hang is the runner's to see.
t.setTimeout(2_400_000);
/** Its modules include e1000e. */
const lab = await VfioLab.boot(network.devices, '6.12-amd64');
t.teardown(() => lab.close());
await lab.loadModules();
await network.open(lab);

for (const [mode, append, pattern] of [
  ['MSI-X', '', /PCI-MSIX-\S+ +\d+-edge +eth0-rx-0/],
  ['INTx', 'pci=nomsi', /IO-APIC +\d+-fasteoi +eth0/],
] as const) {
  t.test(`iperf3 through e1000e with ${mode}, before and after a reboot`, async (t) => {
    const found = await lab.steps(`${IPERF}
const { vm, sh } = await boot(['${CARD}'], '${append}');
report('net', await iperf(sh));
report('driver', await sh('basename "$(readlink /sys/class/net/eth0/device/driver)"'));
report('interrupts', await sh('grep eth0 /proc/interrupts'));
report('mode', (await vm.inspect()).functions[0].interrupts.mode);
const reboot = once(vm, 'reboot');
vm.spawn(['reboot', '-f']).exit.catch(() => {});
await reboot;
report('net after', await iperf(sh));
report('resets', (await vm.inspect()).functions[0].resets);
await vm.close();
`);
    t.equal(found.get('net'), 'sent and received');
    t.equal(found.get('driver'), 'e1000e');
    t.match(found.get('interrupts'), pattern);
    t.equal(found.get('mode'), mode);
    t.equal(found.get('net after'), 'sent and received');
    t.equal(found.get('resets'), '1');
    t.equal(found.get('log'), undefined);
  });
}

t.test('extended configuration space: the serial number, and no error reporting', async (t) => {
  const found = await lab.steps(`
const config = readFileSync('/sys/bus/pci/devices/${CARD}/config');
let at = 0x100;
const here = new Map();
while (at !== 0) {
  const word = config.readUInt32LE(at);
  here.set(word & 0xffff, at);
  at = word >>> 20;
}
report('host', [...here.keys()]);
const serial = here.get(3);
report('serial', [4, 8].map((word) => config.readUInt32LE(serial + word).toString(16).padStart(8, '0')).join('\\n'));
const { vm, sh } = await boot(['${CARD}']);
const slot = '$(lspci -D -d 8086:10d3 | cut -d " " -f 1)';
report('size', await sh('wc -c </sys/bus/pci/devices/' + slot + '/config'));
report('guest', await sh('setpci -s ' + slot + ' ECAP_DSN+4.l ECAP_DSN+8.l'));
report('errors', await sh('setpci -s ' + slot + ' ECAP_AER.l || echo none'));
await sh('setpci -s ' + slot + ' ECAP_DSN+4.l=0');
report('written', await sh('setpci -s ' + slot + ' ECAP_DSN+4.l ECAP_DSN+8.l'));
await vm.close();
`);
  t.match(found.get('host'), /\b1\b.*\b3\b|\b3\b.*\b1\b/, 'error reporting, and a serial number');
  t.equal(found.get('size'), '4096');
  t.equal(found.get('guest'), found.get('serial'));
  t.equal(found.get('written'), found.get('serial'), 'which is read-only');
  t.match(found.get('errors'), /none$/);
  t.equal(found.get('log'), undefined);
});
