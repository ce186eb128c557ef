/**
 * System calls that another process may keep waiting for long, in libuv's thread pool: the event loop turns
 * meanwhile, and signals are handled. A few are in flight at a time; the others queue.
 */
import type { NativeMemory } from './native-memory.ts';
import { bind, type Native, result } from './syscall.ts';

/** As the functions of `syscall.ts`; memory stays in place until the call is over. */
export interface PoolCalls {
  open(path: string, flags: number): Promise<number>;
  close(fd: number): Promise<number>;
  ioctl(fd: number, request: number, argument?: NativeMemory): Promise<number>;
  /** Writes all of the memory. */
  write(fd: number, from: NativeMemory): Promise<number>;
}

/** What koffi adds to a function: its arguments, then what is called with its result. */
interface Pooled {
  async(...args: unknown[]): void;
}

type Argument = number | string | NativeMemory;

function pooled(signature: string): (...args: Argument[]) => Promise<number> {
  const native = bind(signature) as Native & Pooled;
  return async (...args) => {
    const plain = args.map((arg) => (typeof arg === 'object' ? arg.address : arg));
    const value = await new Promise<number>((resolve, reject) => {
      // errno is that of the call, until this returns.
      native.async(...plain, (error: Error | null, returned: number) => {
        if (error === null) resolve(result(returned));
        else reject(error);
      });
    });
    // Until here, `args` keeps memory from being collected.
    args.length = 0;
    return value;
  };
}

const openPooled = pooled('int open(const char *path, int flags, int mode)');
const closePooled = pooled('int close(int fd)');
const ioctlPooled = pooled('int ioctl(int fd, uint64_t request, int64_t argument)');
const writePooled = pooled('int64_t write(int fd, int64_t address, int64_t length)');

export const poolCalls: PoolCalls = {
  open: (path, flags) => openPooled(path, flags, 0),
  close: (fd) => closePooled(fd),
  ioctl: (fd, request, argument) => ioctlPooled(fd, request, argument ?? 0),
  write: (fd, from) => writePooled(fd, from, from.bytes.length),
};
