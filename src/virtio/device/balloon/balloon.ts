/** A memory balloon (virtio 1.3 §5.5): the guest gives up RAM that the host wants back, and gets it again. */
import * as abi from '../../../abi/virtio-balloon.ts';
import { featureSet } from '../../../abi/virtio-ring.ts';
import { flag, integer, options } from '../../../options/option-schema.ts';
import type { DeviceHost, QueueHandler, VirtioDevice } from '../../device.ts';
import { type CarriedOptions, type DeviceType, TRANSPORTED } from '../../device-type.ts';
import { ASK_FOR_STATISTICS, BalloonHandler } from './balloon-handler.ts';
import type { GuestMemoryStatistics } from './balloon-statistics.ts';

/** PCI: unclassified, what QEMU shows. */
const PCI_CLASS = 0x00ff00;
const QUEUE_SIZE = 128;
const { virtio_balloon_config: config } = abi;
/** How long a driver may take to report. */
const STATISTICS_MS = 1000;
const DAY = 86_400;

/** Options of the balloon. */
export interface BalloonOptions extends Omit<CarriedOptions, 'iommu'> {
  /**
   * Whether the guest may take pages back on its own when it runs out of memory, before it ends programs. Default true.
   */
  readonly deflateOnOom?: boolean;
  /** Whether the guest reports pages that it does not use, which go back to the host until it does. Default true. */
  readonly reporting?: boolean;
  /**
   * Seconds between the guest's reports of statistics, 1 to 86400, of which the last one is at hand then. Default: it
   * reports when it is asked.
   */
  readonly statsInterval?: number;
}

/** A balloon of one machine. */
export class BalloonDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId: number = abi.VIRTIO_ID_BALLOON;
  readonly pciClass: number = PCI_CLASS;
  readonly features: bigint;
  // With all of them, drivers that leave queues out when they count agree with those that do not.
  readonly queues = ['inflateq', 'deflateq', 'statsq', 'free_page_vq', 'reporting_vq'].map(
    (name) => ({ name, maxSize: QUEUE_SIZE }),
  );
  readonly config = new Uint8Array(config.size);
  readonly configWriteMask = new Uint8Array(config.size);
  readonly thread = { kind: 'main' } as const;
  readonly backend = { name: 'guest RAM', calls: 'madvise, fallocate' };
  readonly #timer: NodeJS.Timeout | undefined;
  readonly #waiting = new Set<() => void>();
  #host: DeviceHost | undefined;
  #statistics: GuestMemoryStatistics | undefined;

  constructor(name: string, given: BalloonOptions = {}) {
    this.name = name;
    const { deflateOnOom = true, reporting = true, statsInterval } = given;
    this.features = featureSet(
      abi.VIRTIO_BALLOON_F_MUST_TELL_HOST,
      abi.VIRTIO_BALLOON_F_STATS_VQ,
      ...(deflateOnOom ? [abi.VIRTIO_BALLOON_F_DEFLATE_ON_OOM] : []),
      abi.VIRTIO_BALLOON_F_FREE_PAGE_HINT,
      abi.VIRTIO_BALLOON_F_PAGE_POISON,
      ...(reporting ? [abi.VIRTIO_BALLOON_F_PAGE_REPORTING] : []),
    );
    for (const { offset, length } of [config.actual, config.poison_val]) {
      this.configWriteMask.fill(0xff, offset, offset + length);
    }
    if (statsInterval === undefined) return;
    this.#timer = setInterval(() => this.#ask(), statsInterval * 1000);
    this.#timer.unref();
  }

  /** Its driver gives physical page numbers, whatever is in front of the device. */
  iommuProblem(): string {
    return 'the pages in a balloon are guest physical ones';
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  createHandler(): QueueHandler {
    return new BalloonHandler((statistics) => this.#collected(statistics));
  }

  /** Pages of 4096 bytes that the guest is to give up. */
  get wanted(): number {
    return this.#configView().getUint32(config.num_pages.offset, true);
  }

  set wanted(pages: number) {
    this.#host?.updateConfig((view) => view.setUint32(config.num_pages.offset, pages, true));
  }

  /** Pages that it has given up, as its driver says. */
  get actual(): number {
    return this.#configView().getUint32(config.actual.offset, true);
  }

  /** What the driver reports, now or at the last interval; undefined without one that does. */
  async statistics(): Promise<GuestMemoryStatistics | undefined> {
    if (this.#timer !== undefined && this.#statistics !== undefined) return this.#statistics;
    await new Promise<void>((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.#waiting.delete(done);
        resolve();
      };
      const timer = setTimeout(() => {
        this.#statistics = undefined;
        done();
      }, STATISTICS_MS);
      this.#waiting.add(done);
      // One that has been asked already will report.
      this.#ask();
    });
    return this.#statistics;
  }

  /** §2.4: the driver has to start from the beginning, with an empty balloon. */
  reset(): void {
    this.#statistics = undefined;
    this.#host?.updateConfig((view) => {
      view.setUint32(config.actual.offset, 0, true);
      view.setUint32(config.poison_val.offset, 0, true);
    });
  }

  close(): void {
    clearInterval(this.#timer);
  }

  #ask(): void {
    this.#host?.post(ASK_FOR_STATISTICS);
  }

  #collected(statistics: GuestMemoryStatistics): void {
    this.#statistics = statistics;
    for (const done of [...this.#waiting]) done();
  }

  #configView(): DataView {
    const { buffer } = this.#host?.readConfig() ?? this.config;
    return new DataView(buffer);
  }
}

declare module '../../device-type.ts' {
  interface MachineDeviceOptions {
    /** A memory balloon, which gives RAM of the guest back to the host; see docs/memory.md. Default false. */
    readonly balloon?: boolean | BalloonOptions;
  }
}

/** As the registry lists it. */
export const balloonType: DeviceType = {
  name: 'balloon',
  summary: 'a memory balloon (docs/memory.md)',
  key: 'balloon',
  number: 'on-request',
  cli: { option: '--balloon', value: 'keys', bare: true },
  firstKey: 'transport',
  backends: [
    {
      name: 'virtio-balloon',
      options: options<BalloonOptions>(
        {},
        {
          deflateOnOom: flag({ on: true }),
          reporting: flag({ on: true }),
          statsInterval: integer(1, DAY, { value: 'SECONDS' }),
          ...TRANSPORTED,
        },
      ),
      create: (own: BalloonOptions, { name }) => new BalloonDevice(name, own),
    },
  ],
};
