/** What KVM counts of a vCPU: exits by cause, halts, interrupts. Needs neither root nor debugfs. */
import { readSync } from 'node:fs';
import { kvm_stats_desc, kvm_stats_header } from '../abi/kvm.ts';
import { KVM_STATS_TYPE_CUMULATIVE, KVM_STATS_TYPE_MASK } from '../abi/kvm-ioctl.ts';
import { Closeable } from '../host/cleanup-stack.ts';
import type { Fd } from '../host/fd.ts';

interface Counter {
  readonly name: string;
  /** In the data block, bytes. */
  readonly offset: number;
}

/** Where what lies in the file. */
interface Layout {
  readonly counters: readonly Counter[];
  readonly dataOffset: number;
  readonly dataSize: number;
}

/** Owner of one vCPU's counters. They may be read while the vCPU runs, from any thread. */
export class KvmStatistics extends Closeable {
  readonly #file: Fd;
  /** Read on first use: few machines need it. */
  #layout: Layout | undefined;

  /** @param file of KVM_GET_STATS_FD; owned from here on */
  constructor(file: Fd) {
    super();
    this.#file = file;
  }

  /** Adds each counter, as it is now, to the number of its name. */
  addTo(sums: Map<string, number>): void {
    this.#layout ??= this.#readLayout();
    const { counters, dataOffset, dataSize } = this.#layout;
    const data = this.#read(dataOffset, dataSize);
    for (const { name, offset } of counters) {
      const count = Number(data.getBigUint64(offset, true));
      sums.set(name, (sums.get(name) ?? 0) + count);
    }
  }

  close(): void {
    this.#file.close();
  }

  #readLayout(): Layout {
    const header = this.#read(0, kvm_stats_header.size);
    const word = ({ offset }: { offset: number }) => header.getUint32(offset, true);
    const nameSize = word(kvm_stats_header.name_size);
    const length = kvm_stats_desc.size + nameSize;
    const count = word(kvm_stats_header.num_desc);
    const table = this.#read(word(kvm_stats_header.desc_offset), count * length);
    const places = Array.from({ length: count }, (_, index) => index * length);
    const counters = places.flatMap((at) => describe(table, at, nameSize));
    const dataSize = Math.max(0, ...counters.map(({ offset }) => offset + 8));
    return { counters, dataOffset: word(kvm_stats_header.data_offset), dataSize };
  }

  #read(position: number, length: number): DataView {
    const view = new DataView(new ArrayBuffer(length));
    readSync(this.#file.fd, view, 0, length, position);
    return view;
  }
}

/** One counter, unless it is a histogram or an instantaneous value. */
function describe(table: DataView, at: number, nameSize: number): Counter[] {
  const flags = table.getUint32(at + kvm_stats_desc.flags.offset, true);
  const values = table.getUint16(at + kvm_stats_desc.size_.offset, true);
  if ((flags & KVM_STATS_TYPE_MASK) !== KVM_STATS_TYPE_CUMULATIVE || values !== 1) return [];
  const bytes = Buffer.from(table.buffer, at + kvm_stats_desc.size, nameSize);
  const [name = ''] = bytes.toString('latin1').split('\0');
  return [{ name, offset: table.getUint32(at + kvm_stats_desc.offset.offset, true) }];
}
