/** vhost-user messages: the rules for header, payload length and descriptors of each request. */

import { vhost_vring_addr, vhost_vring_state } from '../abi/vhost.ts';
import {
  VHOST_USER_ADD_MEM_REG,
  VHOST_USER_BACKEND_CONFIG_CHANGE_MSG,
  VHOST_USER_GET_CONFIG,
  VHOST_USER_GET_FEATURES,
  VHOST_USER_GET_INFLIGHT_FD,
  VHOST_USER_GET_MAX_MEM_SLOTS,
  VHOST_USER_GET_PROTOCOL_FEATURES,
  VHOST_USER_GET_QUEUE_NUM,
  VHOST_USER_GET_STATUS,
  VHOST_USER_GET_VRING_BASE,
  VHOST_USER_MAX_CONFIG_SIZE,
  VHOST_USER_MAX_REGIONS,
  VHOST_USER_MEM_REG_PADDING,
  VHOST_USER_REM_MEM_REG,
  VHOST_USER_REPLY_MASK,
  VHOST_USER_RESET_DEVICE,
  VHOST_USER_RESET_OWNER,
  VHOST_USER_SET_BACKEND_REQ_FD,
  VHOST_USER_SET_CONFIG,
  VHOST_USER_SET_FEATURES,
  VHOST_USER_SET_INFLIGHT_FD,
  VHOST_USER_SET_MEM_TABLE,
  VHOST_USER_SET_OWNER,
  VHOST_USER_SET_PROTOCOL_FEATURES,
  VHOST_USER_SET_STATUS,
  VHOST_USER_SET_VRING_ADDR,
  VHOST_USER_SET_VRING_BASE,
  VHOST_USER_SET_VRING_CALL,
  VHOST_USER_SET_VRING_ENABLE,
  VHOST_USER_SET_VRING_ERR,
  VHOST_USER_SET_VRING_KICK,
  VHOST_USER_SET_VRING_NUM,
  VHOST_USER_VERSION,
  VHOST_USER_VERSION_MASK,
  vhost_user_config,
  vhost_user_header,
  vhost_user_inflight,
  vhost_user_memory,
  vhost_user_memory_region,
} from '../abi/vhost-user.ts';
import { PeerError } from '../host/errors.ts';
import type { Fd } from '../host/fd.ts';

/** A received message. The channel closes descriptors that its receiver leaves in `fds`. */
export interface Message {
  readonly request: number;
  readonly flags: number;
  readonly payload: DataView<ArrayBuffer>;
  readonly fds: Fd[];
}

/** A checked header. */
export interface Header {
  readonly request: number;
  readonly flags: number;
  /** Bytes of payload that follow. */
  readonly size: number;
}

/** The rule for one request. */
export interface RequestRule {
  /** The specification's name, without `VHOST_USER_`. */
  readonly name: string;
  /** Payload in bytes. */
  readonly size: readonly [least: number, most: number];
  readonly fds: readonly [least: number, most: number];
}

/** The requests that one end of a connection may send, by number. */
export type RequestRules = ReadonlyMap<number, RequestRule>;

/** No message has a longer payload. */
export const MAX_PAYLOAD: number = 1024;

type Range = number | readonly [number, number];

function rules(list: readonly (readonly [number, string, Range, Range?])[]): RequestRules {
  const range = (value: Range): readonly [number, number] =>
    typeof value === 'number' ? [value, value] : value;
  return new Map(
    list.map(([request, name, size, fds = 0]) => [
      request,
      { name, size: range(size), fds: range(fds) },
    ]),
  );
}

const U64 = 8;
const STATE = vhost_vring_state.size;
const REGION = VHOST_USER_MEM_REG_PADDING + vhost_user_memory_region.size;
const TABLE: Range = [
  vhost_user_memory.size,
  vhost_user_memory.size + VHOST_USER_MAX_REGIONS * vhost_user_memory_region.size,
];
const CONFIG: Range = [vhost_user_config.size, vhost_user_config.size + VHOST_USER_MAX_CONFIG_SIZE];
const INFLIGHT: Range = [vhost_user_inflight.size, vhost_user_inflight.size + 4];

/** What frontends may request; anything else is never negotiated. */
export const FRONTEND_REQUESTS: RequestRules = rules([
  [VHOST_USER_GET_FEATURES, 'GET_FEATURES', 0],
  [VHOST_USER_SET_FEATURES, 'SET_FEATURES', U64],
  [VHOST_USER_SET_OWNER, 'SET_OWNER', 0],
  [VHOST_USER_RESET_OWNER, 'RESET_OWNER', 0],
  [VHOST_USER_SET_MEM_TABLE, 'SET_MEM_TABLE', TABLE, [0, VHOST_USER_MAX_REGIONS]],
  [VHOST_USER_SET_VRING_NUM, 'SET_VRING_NUM', STATE],
  [VHOST_USER_SET_VRING_ADDR, 'SET_VRING_ADDR', vhost_vring_addr.size],
  [VHOST_USER_SET_VRING_BASE, 'SET_VRING_BASE', STATE],
  [VHOST_USER_GET_VRING_BASE, 'GET_VRING_BASE', STATE],
  [VHOST_USER_SET_VRING_KICK, 'SET_VRING_KICK', U64, [0, 1]],
  [VHOST_USER_SET_VRING_CALL, 'SET_VRING_CALL', U64, [0, 1]],
  [VHOST_USER_SET_VRING_ERR, 'SET_VRING_ERR', U64, [0, 1]],
  [VHOST_USER_GET_PROTOCOL_FEATURES, 'GET_PROTOCOL_FEATURES', 0],
  [VHOST_USER_SET_PROTOCOL_FEATURES, 'SET_PROTOCOL_FEATURES', U64],
  [VHOST_USER_GET_QUEUE_NUM, 'GET_QUEUE_NUM', 0],
  [VHOST_USER_SET_VRING_ENABLE, 'SET_VRING_ENABLE', STATE],
  [VHOST_USER_SET_BACKEND_REQ_FD, 'SET_BACKEND_REQ_FD', [0, U64], 1],
  [VHOST_USER_GET_CONFIG, 'GET_CONFIG', CONFIG],
  [VHOST_USER_SET_CONFIG, 'SET_CONFIG', CONFIG],
  [VHOST_USER_GET_INFLIGHT_FD, 'GET_INFLIGHT_FD', INFLIGHT],
  [VHOST_USER_SET_INFLIGHT_FD, 'SET_INFLIGHT_FD', INFLIGHT, 1],
  [VHOST_USER_RESET_DEVICE, 'RESET_DEVICE', 0],
  [VHOST_USER_GET_MAX_MEM_SLOTS, 'GET_MAX_MEM_SLOTS', 0],
  [VHOST_USER_ADD_MEM_REG, 'ADD_MEM_REG', REGION, 1],
  // The specification lets old frontends send a descriptor, to be closed.
  [VHOST_USER_REM_MEM_REG, 'REM_MEM_REG', REGION, [0, 1]],
  [VHOST_USER_SET_STATUS, 'SET_STATUS', U64],
  [VHOST_USER_GET_STATUS, 'GET_STATUS', 0],
]);

/** What backends may request, on their own channel. */
export const BACKEND_REQUESTS: RequestRules = rules([
  [VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 'BACKEND_CONFIG_CHANGE_MSG', 0],
]);

/** The name of a request, for messages. */
export const requestName = (requests: RequestRules, request: number): string =>
  requests.get(request)?.name ?? `request ${request}`;

/** A broken rule of the protocol. */
export const protocolError = (why: string): PeerError =>
  new PeerError('E_VHOST_USER', `the vhost-user peer broke the protocol: ${why}`);

/**
 * Checks a header.
 * @param bytes `vhost_user_header.size` of them
 * @param requests what the peer may request; replies are checked by the requester
 * @throws PeerError
 */
export function checkHeader(bytes: DataView, requests: RequestRules): Header {
  const request = bytes.getUint32(vhost_user_header.request.offset, true);
  const flags = bytes.getUint32(vhost_user_header.flags.offset, true);
  const size = bytes.getUint32(vhost_user_header.payload_size.offset, true);
  const version = flags & VHOST_USER_VERSION_MASK;
  if (version !== VHOST_USER_VERSION) {
    throw protocolError(`version ${version} in a header, where only ${VHOST_USER_VERSION} exists`);
  }
  if ((flags & VHOST_USER_REPLY_MASK) !== 0) {
    if (size > MAX_PAYLOAD) throw protocolError(`a reply of ${size} bytes`);
    return { request, flags, size };
  }
  const rule = requests.get(request);
  if (rule === undefined) {
    throw protocolError(`request ${request} is unknown, or belongs to a feature not negotiated`);
  }
  const [least, most] = rule.size;
  if (size < least || size > most) {
    const wanted = least === most ? `${least}` : `${least} to ${most}`;
    throw protocolError(`${rule.name} with a payload of ${size} bytes instead of ${wanted}`);
  }
  return { request, flags, size };
}

/** Checks how many descriptors came with a request. @throws PeerError */
export function checkFds({ request, fds }: Message, requests: RequestRules): void {
  const rule = requests.get(request);
  if (rule === undefined) return;
  const [least, most] = rule.fds;
  if (fds.length >= least && fds.length <= most) return;
  const wanted = least === most ? `${least}` : `${least} to ${most}`;
  throw protocolError(`${rule.name} with ${fds.length} file descriptors instead of ${wanted}`);
}

/** A header for a message that is sent. */
export function encodeHeader(request: number, flags: number, size: number): Uint8Array {
  const view = new DataView(new ArrayBuffer(vhost_user_header.size));
  view.setUint32(vhost_user_header.request.offset, request, true);
  view.setUint32(vhost_user_header.flags.offset, flags | VHOST_USER_VERSION, true);
  view.setUint32(vhost_user_header.payload_size.offset, size, true);
  return new Uint8Array(view.buffer);
}
