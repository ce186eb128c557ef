import t from 'tap';
import { kvm_irq_routing, kvm_irq_routing_entry } from '../../../src/abi/kvm.ts';
import { KVM_IRQ_ROUTING_IRQCHIP, KVM_IRQ_ROUTING_MSI } from '../../../src/abi/kvm-ioctl.ts';
import { FIRST_MSI_GSI, GsiRouting } from '../../../src/kvm/gsi-routing.ts';

function table(routes: number): { view: DataView; routing: GsiRouting } {
  const view = new DataView(new SharedArrayBuffer(GsiRouting.bytes(routes)));
  const routing = new GsiRouting(view, routes);
  routing.initialize();
  return { view, routing };
}

/** gsi, type and the first three words of the union, for each entry. */
function entries(view: DataView): number[][] {
  const count = view.getUint32(kvm_irq_routing.nr.offset, true);
  return Array.from({ length: count }, (_, i) => {
    const at = kvm_irq_routing.size + i * kvm_irq_routing_entry.size;
    return [0, 4, 16, 20, 24].map((offset) => view.getUint32(at + offset, true));
  });
}

t.test('pins: GSI n at IOAPIC pin n, and at the 8259s below 16 but for the cascade', (t) => {
  const pins = entries(table(2).view).filter(([, type]) => type === KVM_IRQ_ROUTING_IRQCHIP);
  const ioapic = pins.filter(([, , chip]) => chip === 2);
  t.same(
    ioapic.map(([gsi, , , pin]) => [gsi, pin]),
    Array.from({ length: 24 }, (_, n) => [n, n]),
  );
  const pic = pins.filter(([, , chip]) => chip !== 2);
  t.same(
    pic.map(([gsi, , chip, pin]) => [gsi, chip, pin]),
    [0, 1, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].map((n) => [n, n < 8 ? 0 : 1, n % 8]),
  );
  t.end();
});

t.test('MSI routes: none has a target at first; a change is reported', (t) => {
  const { view, routing } = table(2);
  const msis = (): number[][] => entries(view).filter(([, type]) => type === KVM_IRQ_ROUTING_MSI);
  t.same(msis(), [
    [FIRST_MSI_GSI, KVM_IRQ_ROUTING_MSI, 0xfeef_e000, 0, 0],
    [FIRST_MSI_GSI + 1, KVM_IRQ_ROUTING_MSI, 0xfeef_e000, 0, 0],
  ]);
  t.equal(routing.setMsi(FIRST_MSI_GSI + 1, 0xfee0_1000, 7, 0x4041), true);
  t.equal(routing.setMsi(FIRST_MSI_GSI + 1, 0xfee0_1000, 7, 0x4041), false, 'the same again');
  t.same(msis()[1], [FIRST_MSI_GSI + 1, KVM_IRQ_ROUTING_MSI, 0xfee0_1000, 7, 0x4041]);
  routing.clearMsi(FIRST_MSI_GSI + 1);
  t.same(msis()[1]?.[2], 0xfeef_e000);
  t.end();
});

t.test('another view of the same memory shows the same routes', (t) => {
  const { view, routing } = table(1);
  const other = new GsiRouting(new DataView(view.buffer), 1);
  routing.setMsi(FIRST_MSI_GSI, 0xfee0_0000, 0, 0x30);
  t.equal(other.setMsi(FIRST_MSI_GSI, 0xfee0_0000, 0, 0x30), false);
  t.end();
});

t.test('a GSI without a route, and memory that is too small, are refused', (t) => {
  const { routing, view } = table(1);
  t.throws(() => routing.setMsi(FIRST_MSI_GSI - 1, 0, 0, 0), RangeError);
  t.throws(() => routing.setMsi(FIRST_MSI_GSI + 1, 0, 0, 0), RangeError);
  t.throws(() => new GsiRouting(view, 2), RangeError);
  t.end();
});
