/**
 * What a vDPA device reaches behind the machine's IOMMU: it never asks, so it has every mapping at all times, and
 * forgets what the guest unmaps before the unmapping is reported to the guest.
 */
import { StepQueue } from '../datapath/datapath.ts';
import { AsyncCloseable } from '../host/cleanup-stack.ts';
import { messageOf } from '../host/errors.ts';
import type { IovaSpace } from '../memory/iova-space.ts';
import type { IovaListener, IovaMapping } from '../memory/iova-table.ts';
import type { ParentMapping, VhostVdpa } from './vhost-vdpa.ts';

type Change = ParentMapping | { readonly start: number; readonly length: number };

/** From the setup of a parent's rings to their end. */
export class VdpaIotlb extends AsyncCloseable implements IovaListener {
  readonly #parent: VhostVdpa;
  readonly #space: IovaSpace;
  readonly #refused: (reason: string) => void;
  readonly #steps = new StepQueue();
  /** Changes that the parent does not have yet, oldest first. */
  readonly #pending: Change[] = [];
  #wasRefused = false;

  /**
   * @param parent nothing is mapped in it
   * @param refused the parent does not follow the guest; called once
   */
  constructor(parent: VhostVdpa, space: IovaSpace, refused: (reason: string) => void) {
    super();
    this.#parent = parent;
    this.#space = space;
    this.#refused = refused;
  }

  /** The parent gets what is mapped, and follows it from here on. Once. @throws HostError */
  async open(): Promise<void> {
    await this.#steps.run(async () => {
      this.#space.table.watch(this);
      const mapped = this.#space.table.all.filter(({ access }) => access !== 0);
      await this.#parent.map(mapped.map((mapping) => this.#forParent(mapping)));
    });
  }

  mapped(mapping: IovaMapping): Promise<void> | undefined {
    return mapping.access === 0 ? undefined : this.#follow(this.#forParent(mapping));
  }

  unmapped(start: number, length: number): Promise<void> {
    return this.#follow({ start, length });
  }

  /** The parent is reset; what is still mapped there is its owner's to take away. */
  async close(): Promise<void> {
    this.#space.table.unwatch(this);
    await this.#steps.ended();
  }

  /** Changes that come while the parent makes others go to it together, as an attached domain's mappings do. */
  #follow(change: Change): Promise<void> {
    this.#pending.push(change);
    return this.#steps.run(async () => {
      try {
        await this.#flush();
      } catch (error) {
        if (this.#wasRefused) return;
        this.#wasRefused = true;
        this.#refused(messageOf(error));
      }
    });
  }

  async #flush(): Promise<void> {
    let mappings: ParentMapping[] = [];
    for (const change of this.#pending.splice(0)) {
      if ('iova' in change) {
        mappings.push(change);
        continue;
      }
      await this.#parent.map(mappings);
      mappings = [];
      await this.#parent.unmap(change.start, change.length);
    }
    await this.#parent.map(mappings);
  }

  #forParent(mapping: IovaMapping): ParentMapping {
    const { address: iova, length: size, access } = mapping;
    return { iova, size, access, address: this.#space.hostAddress(mapping) };
  }
}
