/** `nodevmm/device`: what a device of one's own is written with. */
export { DefinedHandler } from '../../virtio/define/defined-handler.ts';
export {
  type ConfigField,
  type DeviceControl,
  type DeviceDefinition,
  type DeviceFactory,
  type DeviceOptions,
  type DeviceRequest,
  defineDevice,
  type QueueDefinition,
} from '../../virtio/define/definition.ts';
export type {
  ActiveQueue,
  DeviceHost,
  HandlerContext,
  Placement,
  QueueHandler,
  QueueSpec,
  Reactor,
  VirtioDevice,
} from '../../virtio/device.ts';
export { DescriptorChain } from '../../virtio/queue/descriptor-chain.ts';
export { faultText, POP_CHAIN, POP_EMPTY, type Virtqueue } from '../../virtio/queue/virtqueue.ts';
