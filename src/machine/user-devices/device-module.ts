/**
 * `nodevmm/device`: the module that a device of your own is written with.
 * @module nodevmm/device
 */

export { ActiveQueue, KEEP_CHAIN, UNDO_POP } from '../../virtio/active-queue.ts';
export type {
  DeviceHost,
  HandlerContext,
  HandlerThread,
  QueueHandler,
  QueueSpec,
  Reactor,
  RequestObserver,
  VirtioDevice,
} from '../../virtio/device.ts';
export { DefinedHandler } from '../../virtio/device-sdk/defined-handler.ts';
export {
  type ConfigField,
  type DeviceControl,
  type DeviceDefinition,
  type DeviceFactory,
  type DeviceOptions,
  type DeviceRequest,
  defineDevice,
  type QueueDefinition,
} from '../../virtio/device-sdk/definition.ts';
export { DescriptorChain } from '../../virtio/queue/descriptor-chain.ts';
export { faultText, POP_CHAIN, POP_EMPTY, type Virtqueue } from '../../virtio/queue/virtqueue.ts';
