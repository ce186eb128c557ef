/** The first words of a frontend on a new connection: what can the backend do? */
import {
  VHOST_USER_F_PROTOCOL_FEATURES,
  VHOST_USER_GET_FEATURES,
  VHOST_USER_GET_PROTOCOL_FEATURES,
  VHOST_USER_GET_QUEUE_NUM,
  VHOST_USER_PROTOCOL_F_BACKEND_REQ,
  VHOST_USER_PROTOCOL_F_CONFIG,
  VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
  VHOST_USER_PROTOCOL_F_MQ,
  VHOST_USER_PROTOCOL_F_REPLY_ACK,
  VHOST_USER_PROTOCOL_F_RESET_DEVICE,
  VHOST_USER_PROTOCOL_F_STATUS,
  VHOST_USER_SET_OWNER,
  VHOST_USER_SET_PROTOCOL_FEATURES,
} from '../../abi/vhost-user.ts';
import { featureSet, hasFeature } from '../../virtio/features.ts';
import { writeU64 } from '../payload.ts';
import type { Connection } from './connection.ts';

/** Those that this frontend can do. */
const PROTOCOL_FEATURES = featureSet(
  VHOST_USER_PROTOCOL_F_MQ,
  VHOST_USER_PROTOCOL_F_REPLY_ACK,
  VHOST_USER_PROTOCOL_F_BACKEND_REQ,
  VHOST_USER_PROTOCOL_F_CONFIG,
  VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD,
  VHOST_USER_PROTOCOL_F_RESET_DEVICE,
  VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS,
  VHOST_USER_PROTOCOL_F_STATUS,
);

/** What a backend offers. */
export interface Offer {
  /** Virtio feature bits, and VHOST_USER_F_PROTOCOL_FEATURES. */
  readonly features: bigint;
  /** The most queues that it serves (of a network device: queue pairs); undefined: it does not say. */
  readonly queues: number | undefined;
}

/** @throws PeerError */
export async function negotiate(connection: Connection): Promise<Offer> {
  const features = await connection.askU64(VHOST_USER_GET_FEATURES);
  if (hasFeature(features, VHOST_USER_F_PROTOCOL_FEATURES)) {
    const offered = await connection.askU64(VHOST_USER_GET_PROTOCOL_FEATURES);
    const taken = offered & PROTOCOL_FEATURES;
    // Not in force for this request itself.
    await connection.order(VHOST_USER_SET_PROTOCOL_FEATURES, writeU64(taken));
    connection.protocolFeatures = taken;
  }
  await connection.order(VHOST_USER_SET_OWNER);
  if (!connection.has(VHOST_USER_PROTOCOL_F_MQ)) return { features, queues: undefined };
  const queues = await connection.askU64(VHOST_USER_GET_QUEUE_NUM);
  return { features, queues: Number(queues) };
}
