/** virtio 1.3 §5.3: console device. */
import { struct } from './struct.ts';

export const VIRTIO_ID_CONSOLE = 3;

export const VIRTIO_CONSOLE_F_SIZE = 0;
export const VIRTIO_CONSOLE_F_MULTIPORT = 1;
export const VIRTIO_CONSOLE_F_EMERG_WRITE = 2;

export const virtio_console_config = struct({ cols: 2, rows: 2, max_nr_ports: 4, emerg_wr: 4 });
export const virtio_console_control = struct({ id: 4, event: 2, value: 2 });
export const virtio_console_resize = struct({ cols: 2, rows: 2 });

export const VIRTIO_CONSOLE_DEVICE_READY = 0;
export const VIRTIO_CONSOLE_DEVICE_ADD = 1;
export const VIRTIO_CONSOLE_DEVICE_REMOVE = 2;
export const VIRTIO_CONSOLE_PORT_READY = 3;
export const VIRTIO_CONSOLE_CONSOLE_PORT = 4;
export const VIRTIO_CONSOLE_RESIZE = 5;
export const VIRTIO_CONSOLE_PORT_OPEN = 6;
export const VIRTIO_CONSOLE_PORT_NAME = 7;
