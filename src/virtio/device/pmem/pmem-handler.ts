/** The data half of a PMEM device: requests to make writes durable (virtio 1.3 §5.19.6). */
import * as abi from '../../../abi/virtio-pmem.ts';
import { fdatasync } from '../../../host/syscall.ts';
import type { DescriptorChain } from '../../queue/descriptor-chain.ts';
import { RequestHandler } from '../../request-handler.ts';

/** §5.19.6: what `ret` says of a request that failed; as a 32-bit number. */
const FAILED = 2 ** 32 - 1;

/** The file, for a worker. */
export interface PmemHandlerOptions {
  readonly fd: number;
  readonly readOnly: boolean;
}

/** Serves the queue, in a thread of its own: fdatasync(2) takes as long as the medium does. */
export class PmemHandler extends RequestHandler {
  protected override readonly budget = 16;
  readonly #options: PmemHandlerOptions;

  constructor(options: PmemHandlerOptions) {
    super();
    this.#options = options;
  }

  /** What is no request, or has no room for a response, goes back unwritten. */
  protected override answer(chain: DescriptorChain): number {
    const { virtio_pmem_req: request, virtio_pmem_resp: response } = abi;
    if (chain.readableLength < request.size || chain.writableLength < response.size) return 0;
    const type = chain.readUint(request.type.offset, 4);
    const flushed = type === abi.VIRTIO_PMEM_REQ_TYPE_FLUSH && this.#flush();
    chain.writeUint(response.ret.offset, 4, flushed ? 0 : FAILED);
    return response.size;
  }

  /** The guest's stores have made pages of the host's cache dirty, which the kernel knows by its own mapping. */
  #flush(): boolean {
    const { fd, readOnly } = this.#options;
    return readOnly || fdatasync(fd) === 0;
  }
}
