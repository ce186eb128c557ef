/** The registers of the emulated 82540EM, clause by clause of its manual (SDM). */
import t from 'tap';
import * as e1000 from '../../../src/abi/e1000.ts';
import * as pci from '../../../src/abi/pci.ts';
import { drainEventfd } from '../../../src/host/fd.ts';
import { E1000Rig } from '../../support/rigs/e1000.ts';

const header = pci.pci_type0_header;

t.test('SDM 4.1 configuration space', async (t) => {
  using rig = new E1000Rig();
  t.equal(rig.config(header.vendor_id.offset, 2), 0x8086);
  t.equal(rig.config(header.device_id.offset, 2), 0x100e);
  t.equal(rig.config(header.class_code.offset - 1, 4) >>> 8, 0x02_0000);
  t.equal(rig.config(header.interrupt_pin.offset, 1), 1);
  rig.setConfig(header.base_address.offset, 4, 0xffff_ffff);
  t.equal(rig.config(header.base_address.offset, 4), 0xfffe_0000, '128 KiB of registers');
  rig.setConfig(header.base_address.offset + 8, 4, 0xffff_ffff);
  t.equal(rig.config(header.base_address.offset + 8, 4), 0xffff_ffc1, '64 ports');
});

t.test('SDM 13.2 the I/O window reaches every register', async (t) => {
  using rig = new E1000Rig();
  rig.writePort(e1000.IOADDR, e1000.VET);
  t.equal(rig.readPort(e1000.IOADDR), e1000.VET);
  t.equal(rig.readPort(e1000.IODATA), 0x8100);
  rig.writePort(e1000.IODATA, 0x88a8);
  t.equal(rig.read(e1000.VET), 0x88a8);
  rig.writePort(e1000.IODATA, 0x1234, 2);
  t.equal(rig.read(e1000.VET), 0x88a8, 'double words only');
});

t.test('SDM 13.4 the link is up', async (t) => {
  using rig = new E1000Rig();
  const status = rig.read(e1000.STATUS);
  t.equal(status, e1000.STATUS_FD | e1000.STATUS_LU | e1000.STATUS_SPEED_1000);
  rig.write(e1000.STATUS, 0);
  t.equal(rig.read(e1000.STATUS), status, 'read-only');
});

t.test('SDM 13.4 interrupt causes and mask', async (t) => {
  using rig = new E1000Rig();
  rig.write(e1000.ICS, e1000.ICR_LSC);
  t.notOk(rig.line, 'masked');
  rig.write(e1000.IMS, e1000.ICR_LSC | e1000.ICR_RXT0);
  t.equal(rig.read(e1000.IMS), e1000.ICR_LSC | e1000.ICR_RXT0);
  t.ok(rig.line, 'a cause that was pending');
  rig.write(e1000.IMC, e1000.ICR_LSC);
  t.notOk(rig.line);
  t.equal(rig.read(e1000.IMS), e1000.ICR_RXT0);
  rig.write(e1000.IMS, e1000.ICR_LSC);
  rig.write(e1000.ICS, e1000.ICR_TXDW);
  t.equal(rig.read(e1000.ICR), e1000.ICR_LSC | e1000.ICR_TXDW, 'also what is masked');
  t.notOk(rig.line, 'reading acknowledges');
  t.equal(rig.read(e1000.ICR), 0);
  rig.write(e1000.ICS, e1000.ICR_LSC | e1000.ICR_TXDW);
  rig.write(e1000.ICR, e1000.ICR_LSC);
  t.notOk(rig.line, 'so does writing a 1');
  t.equal(rig.read(e1000.ICR), e1000.ICR_TXDW);
  t.equal(rig.read(e1000.ICS), 0, 'write-only');
  t.equal(rig.read(e1000.IMC), 0);
});

t.test('PCI 3.0 §6.2.2 INTx can be disabled', async (t) => {
  using rig = new E1000Rig();
  rig.write(e1000.IMS, e1000.ICR_LSC);
  rig.write(e1000.ICS, e1000.ICR_LSC);
  t.ok(rig.line);
  rig.setCommand(pci.PCI_COMMAND_MEMORY | pci.PCI_COMMAND_INTX_DISABLE);
  t.notOk(rig.line);
  rig.setCommand(pci.PCI_COMMAND_MEMORY);
  t.ok(rig.line);
});

t.test('SDM 13.4 a reset clears all but EEPROM and PHY', async (t) => {
  using rig = new E1000Rig();
  rig.write(e1000.IMS, e1000.ICR_LSC);
  rig.write(e1000.ICS, e1000.ICR_LSC);
  rig.write(e1000.RDBAL, 0x1230);
  rig.write(e1000.MTA + 8, 0xffff_ffff);
  rig.write(e1000.RA, 0);
  rig.write(e1000.MDIC, mdi(e1000.MDIC_OP_WRITE, e1000.PHY_AUTONEG_ADV, 0x0061));
  rig.writePort(e1000.IOADDR, e1000.CTRL);
  rig.writePort(e1000.IODATA, e1000.CTRL_RST);
  t.notOk(rig.line);
  t.equal(rig.read(e1000.CTRL), e1000.CTRL_FD, 'RST clears itself');
  for (const at of [e1000.RDBAL, e1000.IMS, e1000.ICR, e1000.MTA + 8]) t.equal(rig.read(at), 0);
  t.equal(rig.read(e1000.RA), 0x1200_5452, 'the address comes from the EEPROM');
  t.equal(rig.read(e1000.RA + 4), 0x8000_5634);
  rig.write(e1000.MDIC, mdi(e1000.MDIC_OP_READ, e1000.PHY_AUTONEG_ADV));
  t.equal(rig.read(e1000.MDIC) & 0xffff, 0x0061);
  rig.write(e1000.CTRL, e1000.CTRL_PHY_RST);
  rig.write(e1000.MDIC, mdi(e1000.MDIC_OP_READ, e1000.PHY_AUTONEG_ADV));
  t.equal(rig.read(e1000.MDIC) & 0xffff, 0x01e1);
  t.equal(rig.revived, 0);
});

t.test('a reset revives a card that was stopped', async (t) => {
  using rig = new E1000Rig();
  const { file } = rig.card.registers;
  file.broken = true;
  rig.write(e1000.CTRL, e1000.CTRL_RST);
  t.equal(rig.revived, 1);
  t.notOk(file.broken);
});

function mdi(operation: number, register: number, data = 0, phy = e1000.PHY_ADDRESS): number {
  return ((operation << 26) | (phy << 21) | (register << 16) | data) >>> 0;
}

t.test('SDM 13.4 the PHY', async (t) => {
  using rig = new E1000Rig();
  const read = (register: number, phy?: number): number => {
    rig.write(e1000.MDIC, mdi(e1000.MDIC_OP_READ, register, 0, phy));
    return rig.read(e1000.MDIC);
  };
  const phyId = ((read(e1000.PHY_ID1) & 0xffff) << 16) | (read(e1000.PHY_ID2) & 0xffff);
  t.equal(phyId, 0x0141_0c20, 'the 88E1011 that drivers look for');
  t.equal(read(e1000.PHY_STATUS) & 0x24, 0x24, 'negotiated, link up');
  t.ok(read(e1000.PHY_STATUS) & e1000.MDIC_READY);
  t.ok(read(e1000.PHY_STATUS, 2) & e1000.MDIC_ERROR, 'there is one PHY');
  rig.write(e1000.MDIC, mdi(e1000.MDIC_OP_WRITE, e1000.PHY_STATUS, 0));
  t.equal(read(e1000.PHY_STATUS) & 0xffff, 0x796d, 'read-only');
  t.equal(rig.read(e1000.ICR), 0);
  rig.write(e1000.MDIC, mdi(e1000.MDIC_OP_WRITE, e1000.PHY_CTRL, 0x1340));
  t.equal(read(e1000.PHY_CTRL) & 0xffff, 0x1140, 'negotiation is over at once');
  t.equal(rig.read(e1000.ICR), e1000.ICR_LSC);
  rig.write(e1000.MDIC, mdi(0, e1000.PHY_CTRL));
  t.ok(rig.read(e1000.MDIC) & e1000.MDIC_ERROR, 'no such operation');
  rig.write(e1000.MDIC, mdi(e1000.MDIC_OP_READ, 0) + e1000.MDIC_INT_EN);
  t.equal(rig.read(e1000.ICR), e1000.ICR_MDAC);
});

t.test('SDM 13.4 the EEPROM, a word at a time', async (t) => {
  using rig = new E1000Rig();
  let sum = 0;
  for (let word = 0; word < e1000.EEPROM_WORDS; word++) {
    rig.write(e1000.EERD, e1000.EERD_START | (word << 8));
    const value = rig.read(e1000.EERD);
    t.equal(value & 0xffff, (word << 8) | e1000.EERD_DONE);
    sum += value >>> 16;
  }
  t.equal(sum & 0xffff, e1000.EEPROM_SUM, 'SDM 5.6 checksum');
  rig.write(e1000.EERD, e1000.EERD_START | (64 << 8));
  t.equal(rig.read(e1000.EERD) >>> 16, 0, 'past its end');
});

t.test('SDM 13.7 statistics are cleared by reading', async (t) => {
  using rig = new E1000Rig();
  const { file } = rig.card.registers;
  file.count(e1000.GPRC, 3);
  t.equal(rig.read(e1000.GPRC), 3);
  t.equal(rig.read(e1000.GPRC), 0);
  rig.write(e1000.GPRC, 5);
  t.equal(rig.read(e1000.GPRC), 0, 'and cannot be written');
  file.countWide(e1000.GORCL, 0xffff_fff0);
  file.countWide(e1000.GORCL, 0x20);
  t.equal(rig.read(e1000.GORCL), 0x10);
  t.equal(rig.read(e1000.GORCL), 0x10, 'the upper half clears both');
  t.equal(rig.read(e1000.GORCH), 1);
  t.equal(rig.read(e1000.GORCL), 0);
  t.equal(rig.read(e1000.GORCH), 0);
});

t.test('what makes something to do signals the data half', async (t) => {
  using rig = new E1000Rig();
  for (const at of [e1000.TDT, e1000.RDT, e1000.TCTL, e1000.RCTL]) {
    drainEventfd(rig.kick.fd);
    rig.write(at, 0);
    t.ok(drainEventfd(rig.kick.fd), `0x${at.toString(16)}`);
  }
  for (const at of [e1000.IMS, e1000.TDH, e1000.TDBAL, e1000.MTA]) {
    rig.write(at, 0);
    t.notOk(drainEventfd(rig.kick.fd), `0x${at.toString(16)}`);
  }
});

t.test('SDM 13.2 accesses that are not of a double word', async (t) => {
  using rig = new E1000Rig();
  rig.write(e1000.RA, 0x1122_3344);
  t.equal(rig.read(e1000.RA + 2, 2), 0x1122);
  t.equal(rig.read(e1000.RA + 1, 1), 0x33);
  rig.write(e1000.RA, 0xff, 1);
  t.equal(rig.read(e1000.RA), 0x1122_3344, 'writes are lost');
  rig.write(0x1_fffc, 1);
  t.equal(rig.read(0x1_fffc), 0, 'nothing is there');
});
