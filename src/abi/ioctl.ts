/** Request numbers of ioctl(2), made as `asm-generic/ioctl.h` makes them. */

const IOC_NRSHIFT = 0;
const IOC_TYPESHIFT = 8;
const IOC_SIZESHIFT = 16;
const IOC_DIRSHIFT = 30;
const IOC_NONE = 0;
const IOC_WRITE = 1;
const IOC_READ = 2;

function ioc(direction: number, type: number, number: number, size: number): number {
  const request =
    (direction << IOC_DIRSHIFT) |
    (size << IOC_SIZESHIFT) |
    (type << IOC_TYPESHIFT) |
    (number << IOC_NRSHIFT);
  return request >>> 0;
}

/** `_IO(type, nr)`: no argument, or one passed by value. */
export const _IO = (type: number, number: number): number => ioc(IOC_NONE, type, number, 0);
/** `_IOR(type, nr, size)`: the kernel writes a struct of `size` bytes. */
export const _IOR = (type: number, number: number, size: number): number =>
  ioc(IOC_READ, type, number, size);
/** `_IOW(type, nr, size)`: the kernel reads a struct of `size` bytes. */
export const _IOW = (type: number, number: number, size: number): number =>
  ioc(IOC_WRITE, type, number, size);
/** `_IOWR(type, nr, size)`: the kernel reads and writes a struct of `size` bytes. */
export const _IOWR = (type: number, number: number, size: number): number =>
  ioc(IOC_READ | IOC_WRITE, type, number, size);
