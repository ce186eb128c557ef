/** The RAM of a machine's memory device: which of it the guest reaches, and what the host keeps of it. */
import { Closeable } from '../host/cleanup-stack.ts';
import { HostError, InternalError } from '../host/errors.ts';
import type { Vm } from '../kvm/vm.ts';
import type { GuestMemory } from '../memory/guest-memory.ts';
import { BLOCK_SIZE, type PluggedBlocks } from '../memory/plugged-blocks.ts';
import { MiB } from '../memory/ram-layout.ts';
import { ReleasableRam } from '../memory/releasable-ram.ts';
import type { MemDevice } from '../virtio/device/mem/mem.ts';
import type { GrowingRam } from '../virtio/device/mem/mem-handler.ts';

/** Each has a memory slot of KVM while a block in it is plugged: what Linux plugs at once, or more. */
const SECTION_MIN = (128 * MiB) / BLOCK_SIZE;
const SECTIONS_MAX = 256;
/** Blocks that go back to the host before the rest of the thread gets its turn. */
const TURN = 64;

/** Owns the slots, from power-on to power-off, and gives unplugged blocks back. */
export class MachineGrowth extends Closeable implements GrowingRam {
  readonly #memory: GuestMemory;
  readonly #blocks: PluggedBlocks;
  readonly #device: MemDevice;
  readonly #releasable: ReleasableRam;
  readonly #log: (text: string) => void;
  /** Blocks of a section. */
  readonly #section: number;
  /** 1 for each section that has a slot. */
  readonly #slots: Uint8Array;
  /** 1 for each unplugged block that the host still has to take. */
  readonly #leftover: Uint8Array;
  #vm: Pick<Vm, 'setMemorySlot'> | undefined;
  #firstSlot = 0;
  #turn: NodeJS.Immediate | undefined;

  /** @param log receives lines for the user */
  constructor(memory: GuestMemory, device: MemDevice, log: (text: string) => void) {
    super();
    if (memory.blocks === null) throw new InternalError('this RAM does not grow');
    this.#memory = memory;
    this.#blocks = memory.blocks;
    this.#device = device;
    this.#releasable = new ReleasableRam(memory);
    this.#log = log;
    this.#section = Math.max(SECTION_MIN, Math.ceil(this.count / SECTIONS_MAX));
    this.#slots = new Uint8Array(Math.ceil(this.count / this.#section));
    this.#leftover = new Uint8Array(this.count);
    device.setMemory(this);
  }

  get gpa(): number {
    return this.#blocks.share.gpa;
  }

  get count(): number {
    return this.#blocks.count;
  }

  /** Memory slots that it needs. */
  get slots(): number {
    return this.#slots.length;
  }

  /** @param firstSlot of as many as it needs */
  powerOn(vm: Pick<Vm, 'setMemorySlot'>, firstSlot: number): void {
    this.#vm = vm;
    this.#firstSlot = firstSlot;
    for (let section = 0; section < this.#slots.length; section++) {
      if (this.pluggedOf(section * this.#section, this.#section) > 0) this.#setSlot(section, true);
    }
  }

  /**
   * The VM goes, and its slots with it.
   * @param asleep the guest is woken in the next one, with all of its RAM; else nothing uses the blocks any more
   */
  powerOff(asleep: boolean): void {
    this.#vm = undefined;
    this.#slots.fill(0);
    if (!asleep) this.#device.resetSystem();
  }

  pluggedOf(first: number, count: number): number {
    return this.#blocks.pluggedOf(first, count);
  }

  plug(first: number, count: number): boolean {
    try {
      this.#eachSection(first, count, (section) => this.#setSlot(section, true));
    } catch (error) {
      if (!(error instanceof HostError)) throw error;
      this.#log(`${this.#device.name}: ${error.message}`);
      return false;
    }
    // From here on devices reach them.
    this.#leftover.fill(0, first, first + count);
    this.#blocks.set(first, count, true);
    return true;
  }

  unplug(first: number, count: number): void {
    for (let block = first; block < first + count; block++) {
      if (this.pluggedOf(block, 1) === 1) this.#leftover[block] = 1;
    }
    this.#blocks.set(first, count, false);
    this.#eachSection(first, count, (section) => {
      if (this.pluggedOf(section * this.#section, this.#section) === 0) {
        this.#setSlot(section, false);
      }
    });
    this.#turn ??= setImmediate(() => this.#release());
  }

  /** The mapping goes next. */
  close(): void {
    clearImmediate(this.#turn);
  }

  #eachSection(first: number, count: number, visit: (section: number) => void): void {
    const last = Math.floor((first + count - 1) / this.#section);
    for (let section = Math.floor(first / this.#section); section <= last; section++) {
      visit(section);
    }
  }

  #setSlot(section: number, exists: boolean): void {
    if (this.#vm === undefined || this.#slots[section] === (exists ? 1 : 0)) return;
    const { gpa, offset } = this.#blocks.share;
    const first = section * this.#section;
    const at = first * BLOCK_SIZE;
    const size = exists ? Math.min(this.#section, this.count - first) * BLOCK_SIZE : 0;
    const address = this.#memory.address + offset + at;
    this.#vm.setMemorySlot(this.#firstSlot + section, gpa + at, size, address);
    this.#slots[section] = exists ? 1 : 0;
  }

  /** Gives the next of the unplugged blocks back. */
  #release(): void {
    this.#turn = undefined;
    const first = this.#leftover.indexOf(1);
    if (first < 0) return;
    let count = 1;
    while (count < TURN && this.#leftover[first + count] === 1) count++;
    this.#leftover.fill(0, first, first + count);
    const { offset } = this.#blocks.share;
    this.#releasable.release(offset + first * BLOCK_SIZE, count * BLOCK_SIZE);
    this.#turn = setImmediate(() => this.#release());
  }
}
