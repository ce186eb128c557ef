/** An IOMMU (virtio 1.3 §5.13): the guest decides which of its memory each device behind it reaches. */
import { readFileSync } from 'node:fs';
import * as abi from '../../../abi/virtio-iommu.ts';
import { featureSet } from '../../../abi/virtio-ring.ts';
import { InternalError } from '../../../host/errors.ts';
import { type DeniedAccess, PAGE_SIZE } from '../../../memory/guest-memory.ts';
import { options } from '../../../options/option-schema.ts';
import type { DeviceHost, QueueHandler, RequestObserver, VirtioDevice } from '../../device.ts';
import { type CarriedOptions, type DeviceType, TRANSPORTED } from '../../device-type.ts';
import * as record from '../../observe/trace/trace-record.ts';
import {
  DOMAIN_MAX,
  type DomainEvents,
  type EndpointSpace,
  type InspectedDomain,
  IommuDomains,
  type MappedRam,
} from './domains.ts';
import { IommuHandler, PROBE_SIZE } from './iommu-handler.ts';
import { IommuRules } from './iommu-rules.ts';

/** PCI: system peripheral, IOMMU. */
const PCI_CLASS = 0x08_0600;
const QUEUE_SIZE = 256;
const { virtio_iommu_config: config } = abi;

/** An IOMMU of one machine. Endpoints come with each board. */
export class IommuDevice implements VirtioDevice {
  readonly name: string;
  readonly deviceId: number = abi.VIRTIO_ID_IOMMU;
  readonly pciClass: number = PCI_CLASS;
  readonly features: bigint = featureSet(
    abi.VIRTIO_IOMMU_F_INPUT_RANGE,
    abi.VIRTIO_IOMMU_F_DOMAIN_RANGE,
    abi.VIRTIO_IOMMU_F_MAP_UNMAP,
    abi.VIRTIO_IOMMU_F_PROBE,
    abi.VIRTIO_IOMMU_F_BYPASS_CONFIG,
  );
  readonly queues = [
    { name: 'requestq', maxSize: QUEUE_SIZE },
    { name: 'eventq', maxSize: QUEUE_SIZE },
  ];
  readonly config = new Uint8Array(config.size);
  readonly configWriteMask = new Uint8Array(config.size);
  readonly thread = { kind: 'main' } as const;
  #host: DeviceHost | undefined;
  #domains: IommuDomains | undefined;
  #handler: IommuHandler | undefined;
  #observer: RequestObserver = {};

  constructor(name: string) {
    this.name = name;
    const view = new DataView(this.config.buffer);
    view.setBigUint64(config.page_size_mask.offset, BigInt(PAGE_SIZE), true);
    view.setUint32(config.domain_range_end.offset, DOMAIN_MAX, true);
    view.setUint32(config.probe_size.offset, PROBE_SIZE, true);
    this.configWriteMask[config.bypass.offset] = 0xff;
  }

  attach(host: DeviceHost): void {
    this.#host = host;
  }

  /**
   * Once, before the guest runs.
   * @param size bytes of addresses that each endpoint has
   */
  setMemory(ram: MappedRam, size: number): void {
    const view = new DataView(this.config.buffer);
    view.setBigUint64(config.input_range_end.offset, BigInt(size) - 1n, true);
    this.#domains = new IommuDomains(ram, size, mappingsMax());
    const write = this.#observer.record?.bind(this.#observer);
    if (write !== undefined) this.#domains.events = tracedDomains(write);
  }

  /** Begins with the endpoints of a new board: the guest has not set anything up. */
  powerOn(endpoints: ReadonlyMap<number, EndpointSpace>): void {
    const domains = this.#known();
    domains.clear();
    domains.bypass = true;
    this.config[config.bypass.offset] = 1;
    for (const [id, space] of endpoints) domains.add(id, space);
  }

  /** Reports an access of an endpoint to the driver. */
  denied(endpoint: number, access: DeniedAccess): void {
    this.#observer.record?.(record.IOMMU_FAULT, endpoint, access.write ? 1 : 0, access.address, 0);
    this.#handler?.report(endpoint, access);
  }

  watch(observer: RequestObserver): void {
    this.#observer = observer;
  }

  /** Whether devices in no domain reach all guest RAM. */
  get bypass(): boolean {
    return this.#known().bypass;
  }

  /** The domains that the guest has made. */
  domains(): InspectedDomain[] {
    return this.#domains?.list() ?? [];
  }

  createHandler(): QueueHandler {
    const domains = this.#known();
    const breach = this.#observer.breach?.bind(this.#observer);
    const rules = breach && new IommuRules(domains, breach);
    this.#handler = new IommuHandler(domains, rules);
    return this.#handler;
  }

  configWritten(): void {
    const value = this.#host?.readConfig()[config.bypass.offset] ?? 0;
    // §5.13.4.2: never anything but 0 and 1.
    if (value > 1) this.#host?.updateConfig((view) => view.setUint8(config.bypass.offset, 1));
    this.#known().bypass = value !== 0;
  }

  /** §5.13.5; `bypass` stays as it is. */
  reset(): void {
    this.#known().reset();
  }

  close(): void {}

  #known(): IommuDomains {
    if (this.#domains === undefined) throw new InternalError(`${this.name} has no memory`);
    return this.#domains;
  }
}

/** Writes what changes into the trace. */
function tracedDomains(write: NonNullable<RequestObserver['record']>): DomainEvents {
  return {
    attached: (endpoint, domain) => write(record.IOMMU_ATTACH, endpoint, domain, 0, 0),
    detached: (endpoint, domain) => write(record.IOMMU_DETACH, endpoint, domain, 0, 0),
    mapped: (domain, { address, length, gpa, access }) => {
      write(record.IOMMU_MAP, domain, (4 * length) / PAGE_SIZE + access, address, gpa);
    },
    unmapped: (domain, start, end, mappings) =>
      write(record.IOMMU_UNMAP, domain, mappings, start, end),
  };
}

/**
 * A mapping takes up to two entries in the kernel's table of this process's mappings, and half of the table is for
 * everything else.
 */
function mappingsMax(): number {
  return Math.floor(Number(readFileSync('/proc/sys/vm/max_map_count', 'latin1')) / 4);
}

/** Options of the IOMMU. */
export type IommuOptions = Omit<CarriedOptions, 'iommu'>;

declare module '../../device-type.ts' {
  interface MachineDeviceOptions {
    /** A virtio IOMMU in front of the machine's devices; see docs/iommu.md. Default false. */
    readonly iommu?: boolean | IommuOptions;
  }
}

/** As the registry lists it. */
export const iommuType: DeviceType = {
  name: 'iommu',
  summary: 'an IOMMU in front of the virtio devices',
  key: 'iommu',
  number: 'on-request',
  cli: { option: '--iommu', value: 'keys', bare: true },
  firstKey: 'transport',
  backends: [
    {
      name: 'virtio-iommu',
      ram: () => 'paged',
      options: options<IommuOptions>({}, TRANSPORTED),
      create: (_, { name }) => new IommuDevice(name),
    },
  ],
};
