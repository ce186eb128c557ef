/** The EEPROM's serial interface (SDM 5), driven wire by wire. */
import t from 'tap';
import * as e1000 from '../../../src/abi/e1000.ts';
import { eepromImage } from '../../../src/nic/eeprom.ts';
import { E1000Rig, MAC } from '../../support/rigs/e1000.ts';

const { EECD_CS: CS, EECD_DI: DI, EECD_DO: DO, EECD_SK: SK } = e1000;
const READ = 0b110;
const WRITE = 0b101;

/** The wires in a driver's hand. */
class Wires {
  readonly #rig: E1000Rig;

  constructor(rig: E1000Rig) {
    this.#rig = rig;
  }

  select(): void {
    this.#rig.write(e1000.EECD, e1000.EECD_REQ);
    this.#rig.write(e1000.EECD, e1000.EECD_REQ | CS);
  }

  release(): void {
    this.#rig.write(e1000.EECD, 0);
  }

  /** Clocks bits in, the highest first. */
  put(value: number, bits: number): void {
    for (let bit = bits - 1; bit >= 0; bit--) {
      const data = e1000.EECD_REQ | CS | ((value >> bit) & 1 ? DI : 0);
      this.#rig.write(e1000.EECD, data);
      this.#rig.write(e1000.EECD, data | SK);
      this.#rig.write(e1000.EECD, data);
    }
  }

  get output(): number {
    return this.#rig.read(e1000.EECD) & DO ? 1 : 0;
  }

  /** Clocks a word out. */
  take(): number {
    let word = 0;
    for (let bit = 0; bit < 16; bit++) {
      this.#rig.write(e1000.EECD, e1000.EECD_REQ | CS | SK);
      word = (word << 1) | this.output;
      this.#rig.write(e1000.EECD, e1000.EECD_REQ | CS);
    }
    return word;
  }
}

t.test('SDM 5 access is requested and granted', async (t) => {
  using rig = new E1000Rig();
  t.equal(rig.read(e1000.EECD) & (e1000.EECD_PRES | e1000.EECD_GNT), e1000.EECD_PRES);
  rig.write(e1000.EECD, e1000.EECD_REQ);
  t.ok(rig.read(e1000.EECD) & e1000.EECD_GNT);
  rig.write(e1000.EECD, 0);
  t.notOk(rig.read(e1000.EECD) & e1000.EECD_GNT);
});

t.test('SDM 5 a read: start bit, opcode, six bits of address, a zero, sixteen bits', async (t) => {
  using rig = new E1000Rig();
  const wires = new Wires(rig);
  const image = eepromImage(MAC);
  for (const address of [0, 1, 2, 0x0d, 0x3f]) {
    wires.select();
    wires.put(READ, 3);
    wires.put(address, 6);
    t.equal(wires.output, 0, 'the dummy bit');
    t.equal(wires.take(), image[address]);
    wires.release();
  }
});

t.test('a read continues with the next word, and wraps around', async (t) => {
  using rig = new E1000Rig();
  const wires = new Wires(rig);
  const image = eepromImage(MAC);
  wires.select();
  wires.put(READ, 3);
  wires.put(0x3e, 6);
  t.same([wires.take(), wires.take(), wires.take()], [image[0x3e], image[0x3f], image[0]]);
});

t.test('zeros in front of the start bit do not count', async (t) => {
  using rig = new E1000Rig();
  const wires = new Wires(rig);
  wires.select();
  wires.put(0, 5);
  wires.put(READ, 3);
  wires.put(1, 6);
  t.equal(wires.take(), eepromImage(MAC)[1]);
});

t.test('letting the chip go ends a command', async (t) => {
  using rig = new E1000Rig();
  const wires = new Wires(rig);
  wires.select();
  wires.put(READ, 3);
  wires.release();
  wires.select();
  wires.put(READ, 3);
  wires.put(2, 6);
  t.equal(wires.take(), eepromImage(MAC)[2]);
});

t.test('it cannot be written', async (t) => {
  using rig = new E1000Rig();
  const wires = new Wires(rig);
  wires.select();
  wires.put(WRITE, 3);
  wires.put(0, 6);
  wires.put(0xdead, 16);
  wires.release();
  wires.select();
  wires.put(READ, 3);
  wires.put(0, 6);
  t.equal(wires.take(), eepromImage(MAC)[0]);
});

t.test('SDM 5.6 what is in it', async (t) => {
  const image = eepromImage(MAC);
  t.equal(image.length, 64);
  t.same(image.slice(0, 3), [0x5452, 0x1200, 0x5634]);
  t.equal(image.reduce((sum, word) => sum + word, 0) & 0xffff, 0xbaba);
  t.equal(image[0x0f], 0, 'no pause frames');
});
