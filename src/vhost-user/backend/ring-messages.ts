/** What the messages about a single ring do. */
import {
  VHOST_USER_GET_VRING_BASE,
  VHOST_USER_SET_VRING_ADDR,
  VHOST_USER_SET_VRING_BASE,
  VHOST_USER_SET_VRING_CALL,
  VHOST_USER_SET_VRING_ENABLE,
  VHOST_USER_SET_VRING_ERR,
  VHOST_USER_SET_VRING_KICK,
  VHOST_USER_SET_VRING_NUM,
} from '../../abi/vhost-user.ts';
import type { Fd } from '../../host/fd.ts';
import type { Channel } from '../channel.ts';
import { FRONTEND_REQUESTS, type Message, protocolError, requestName } from '../message.ts';
import * as payload from '../payload.ts';
import type { ExportedRing } from './exported-ring.ts';
import type { ServedRings } from './served-rings.ts';

/**
 * @param sizes the largest size of each ring
 * @returns true when the request has a reply of its own, which is sent
 * @throws PeerError when it is none about rings, or asks for what cannot be
 */
export async function handleRing(
  message: Message,
  rings: ServedRings,
  sizes: readonly number[],
  channel: Channel,
): Promise<boolean> {
  switch (message.request) {
    case VHOST_USER_SET_VRING_NUM: {
      const { index, num } = payload.readVringNumber(message);
      const ring = rings.ring(index);
      const most = sizes[index] ?? 0;
      if (num < 1 || num > most) {
        throw protocolError(`ring ${index} with ${num} descriptors; it has at most ${most}`);
      }
      await rings.change(() => {
        ring.size = num;
      });
      return false;
    }
    case VHOST_USER_SET_VRING_ADDR: {
      const address = payload.readVringAddress(message);
      const ring = rings.ring(address.index);
      await rings.change(() => {
        ring.address = address;
      });
      return false;
    }
    case VHOST_USER_SET_VRING_BASE: {
      const { index, num } = payload.readVringNumber(message);
      const ring = rings.ring(index);
      await rings.change(() => {
        ring.base = num;
        ring.state = undefined;
      });
      return false;
    }
    case VHOST_USER_GET_VRING_BASE: {
      const { index } = payload.readVringNumber(message);
      const ring = rings.ring(index);
      await rings.change(() => rings.stopped(ring));
      const num = rings.base(ring);
      channel.reply(message, payload.writeVringNumber({ index, num }));
      return true;
    }
    case VHOST_USER_SET_VRING_ENABLE: {
      const { index, num } = payload.readVringNumber(message);
      const ring = rings.ring(index);
      if (num > 1) throw protocolError(`ring ${index} is to be enabled by ${num}, not 0 or 1`);
      if (ring.enabled === (num === 1)) return false;
      await rings.change(() => {
        ring.enabled = num === 1;
      });
      return false;
    }
    case VHOST_USER_SET_VRING_KICK: {
      const { index, fd } = payload.readVringFd(message);
      const ring = ringFor(rings, index, fd);
      await rings.change(() => ring.setKick(fd));
      return false;
    }
    case VHOST_USER_SET_VRING_CALL: {
      const { index, fd } = payload.readVringFd(message);
      ringFor(rings, index, fd).setCall(fd);
      return false;
    }
    case VHOST_USER_SET_VRING_ERR: {
      const { index, fd } = payload.readVringFd(message);
      ringFor(rings, index, fd).setError(fd);
      return false;
    }
    default:
      throw notNegotiated(message);
  }
}

function ringFor(rings: ServedRings, index: number, fd: Fd | undefined): ExportedRing {
  try {
    return rings.ring(index);
  } catch (error) {
    fd?.close();
    throw error;
  }
}

/** A request that belongs to a feature which the frontend did not take. */
export function notNegotiated({ request }: Message): Error {
  return protocolError(`${requestName(FRONTEND_REQUESTS, request)} was not negotiated`);
}
