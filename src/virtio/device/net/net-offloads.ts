/** Offloads by virtio's names, and by a tap's. */
import {
  TUN_F_CSUM,
  TUN_F_TSO_ECN,
  TUN_F_TSO4,
  TUN_F_TSO6,
  TUN_F_USO4,
  TUN_F_USO6,
} from '../../../abi/tun.ts';
import * as net from '../../../abi/virtio-net.ts';
import { featureSet, hasFeature } from '../../../abi/virtio-ring.ts';

/** What the driver can receive, and the tap's matching flags. */
const GUEST = [
  [net.VIRTIO_NET_F_GUEST_CSUM, TUN_F_CSUM],
  [net.VIRTIO_NET_F_GUEST_TSO4, TUN_F_TSO4],
  [net.VIRTIO_NET_F_GUEST_TSO6, TUN_F_TSO6],
  [net.VIRTIO_NET_F_GUEST_ECN, TUN_F_TSO_ECN],
  [net.VIRTIO_NET_F_GUEST_USO4, TUN_F_USO4],
  [net.VIRTIO_NET_F_GUEST_USO6, TUN_F_USO6],
] as const;

/** What a tap of a kernel that knows the flag accepts from the driver. */
const HOST = [
  [net.VIRTIO_NET_F_CSUM, TUN_F_CSUM],
  [net.VIRTIO_NET_F_HOST_TSO4, TUN_F_TSO4],
  [net.VIRTIO_NET_F_HOST_TSO6, TUN_F_TSO6],
  [net.VIRTIO_NET_F_HOST_ECN, TUN_F_TSO_ECN],
  [net.VIRTIO_NET_F_HOST_USO, TUN_F_USO4],
] as const;

/** Those that allow received packets longer than the MTU. */
const GUEST_SEGMENTATION = featureSet(
  net.VIRTIO_NET_F_GUEST_TSO4,
  net.VIRTIO_NET_F_GUEST_TSO6,
  net.VIRTIO_NET_F_GUEST_USO4,
  net.VIRTIO_NET_F_GUEST_USO6,
);

/** All features that VIRTIO_NET_CTRL_GUEST_OFFLOADS_SET may name (§5.1.6.5.6). */
export const GUEST_OFFLOADS = featureSet(...GUEST.map(([feature]) => feature));

/** Features to offer on a tap that supports these TUN_F_*. */
export function offloadFeatures(tun: number): bigint {
  const can = [...GUEST, ...HOST].filter(([, flag]) => (tun & flag) !== 0);
  return featureSet(...can.map(([feature]) => feature));
}

/** TUN_F_* for what the driver can receive. */
export function tunOffloads(features: bigint): number {
  return GUEST.reduce(
    (all, [feature, flag]) => all | (hasFeature(features, feature) ? flag : 0),
    0,
  );
}

/** True when received packets can be as long as IP allows. */
export function receivesLargePackets(features: bigint): boolean {
  return (features & GUEST_SEGMENTATION) !== 0n;
}

/** §5.1.3.1; that ECN needs either of the TSO bits does no harm unchecked. */
export const OFFLOAD_DEPENDENCIES = [
  [net.VIRTIO_NET_F_GUEST_TSO4, net.VIRTIO_NET_F_GUEST_CSUM],
  [net.VIRTIO_NET_F_GUEST_TSO6, net.VIRTIO_NET_F_GUEST_CSUM],
  [net.VIRTIO_NET_F_GUEST_USO4, net.VIRTIO_NET_F_GUEST_CSUM],
  [net.VIRTIO_NET_F_GUEST_USO6, net.VIRTIO_NET_F_GUEST_CSUM],
  [net.VIRTIO_NET_F_HOST_TSO4, net.VIRTIO_NET_F_CSUM],
  [net.VIRTIO_NET_F_HOST_TSO6, net.VIRTIO_NET_F_CSUM],
  [net.VIRTIO_NET_F_HOST_USO, net.VIRTIO_NET_F_CSUM],
] as const;
