/** vhost-user messages: the rules for header, payload length and descriptors of each request. */

import { vhost_iotlb_msg, vhost_vring_addr, vhost_vring_state } from '../abi/vhost.ts';
import * as abi from '../abi/vhost-user.ts';
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
const REGION = abi.VHOST_USER_MEM_REG_PADDING + abi.vhost_user_memory_region.size;
const TABLE: Range = [
  abi.vhost_user_memory.size,
  abi.vhost_user_memory.size + abi.VHOST_USER_MAX_REGIONS * abi.vhost_user_memory_region.size,
];
const CONFIG: Range = [
  abi.vhost_user_config.size,
  abi.vhost_user_config.size + abi.VHOST_USER_MAX_CONFIG_SIZE,
];
/** Padded as in C, or not. */
const IOTLB: Range = [vhost_iotlb_msg.type.offset + 1, vhost_iotlb_msg.size];
const INFLIGHT: Range = [abi.vhost_user_inflight.size, abi.vhost_user_inflight.size + 4];

/** What frontends may request; anything else is never negotiated. */
export const FRONTEND_REQUESTS: RequestRules = rules([
  [abi.VHOST_USER_GET_FEATURES, 'GET_FEATURES', 0],
  [abi.VHOST_USER_SET_FEATURES, 'SET_FEATURES', U64],
  [abi.VHOST_USER_SET_OWNER, 'SET_OWNER', 0],
  [abi.VHOST_USER_RESET_OWNER, 'RESET_OWNER', 0],
  [abi.VHOST_USER_SET_MEM_TABLE, 'SET_MEM_TABLE', TABLE, [0, abi.VHOST_USER_MAX_REGIONS]],
  [abi.VHOST_USER_SET_VRING_NUM, 'SET_VRING_NUM', STATE],
  [abi.VHOST_USER_SET_VRING_ADDR, 'SET_VRING_ADDR', vhost_vring_addr.size],
  [abi.VHOST_USER_SET_VRING_BASE, 'SET_VRING_BASE', STATE],
  [abi.VHOST_USER_GET_VRING_BASE, 'GET_VRING_BASE', STATE],
  [abi.VHOST_USER_SET_VRING_KICK, 'SET_VRING_KICK', U64, [0, 1]],
  [abi.VHOST_USER_SET_VRING_CALL, 'SET_VRING_CALL', U64, [0, 1]],
  [abi.VHOST_USER_SET_VRING_ERR, 'SET_VRING_ERR', U64, [0, 1]],
  [abi.VHOST_USER_GET_PROTOCOL_FEATURES, 'GET_PROTOCOL_FEATURES', 0],
  [abi.VHOST_USER_SET_PROTOCOL_FEATURES, 'SET_PROTOCOL_FEATURES', U64],
  [abi.VHOST_USER_GET_QUEUE_NUM, 'GET_QUEUE_NUM', 0],
  [abi.VHOST_USER_SET_VRING_ENABLE, 'SET_VRING_ENABLE', STATE],
  [abi.VHOST_USER_SET_BACKEND_REQ_FD, 'SET_BACKEND_REQ_FD', [0, U64], 1],
  [abi.VHOST_USER_IOTLB_MSG, 'IOTLB_MSG', IOTLB],
  [abi.VHOST_USER_GET_CONFIG, 'GET_CONFIG', CONFIG],
  [abi.VHOST_USER_SET_CONFIG, 'SET_CONFIG', CONFIG],
  [abi.VHOST_USER_GET_INFLIGHT_FD, 'GET_INFLIGHT_FD', INFLIGHT],
  [abi.VHOST_USER_SET_INFLIGHT_FD, 'SET_INFLIGHT_FD', INFLIGHT, 1],
  [abi.VHOST_USER_RESET_DEVICE, 'RESET_DEVICE', 0],
  [abi.VHOST_USER_GET_MAX_MEM_SLOTS, 'GET_MAX_MEM_SLOTS', 0],
  [abi.VHOST_USER_ADD_MEM_REG, 'ADD_MEM_REG', REGION, 1],
  // The specification lets old frontends send a descriptor, to be closed.
  [abi.VHOST_USER_REM_MEM_REG, 'REM_MEM_REG', REGION, [0, 1]],
  [abi.VHOST_USER_SET_STATUS, 'SET_STATUS', U64],
  [abi.VHOST_USER_GET_STATUS, 'GET_STATUS', 0],
]);

/** What backends may request, on their own channel. */
export const BACKEND_REQUESTS: RequestRules = rules([
  [abi.VHOST_USER_BACKEND_IOTLB_MSG, 'BACKEND_IOTLB_MSG', IOTLB],
  [abi.VHOST_USER_BACKEND_CONFIG_CHANGE_MSG, 'BACKEND_CONFIG_CHANGE_MSG', 0],
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
  const request = bytes.getUint32(abi.vhost_user_header.request.offset, true);
  const flags = bytes.getUint32(abi.vhost_user_header.flags.offset, true);
  const size = bytes.getUint32(abi.vhost_user_header.payload_size.offset, true);
  const version = flags & abi.VHOST_USER_VERSION_MASK;
  if (version !== abi.VHOST_USER_VERSION) {
    throw protocolError(
      `version ${version} in a header, where only ${abi.VHOST_USER_VERSION} exists`,
    );
  }
  if ((flags & abi.VHOST_USER_REPLY_MASK) !== 0) {
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
  const view = new DataView(new ArrayBuffer(abi.vhost_user_header.size));
  view.setUint32(abi.vhost_user_header.request.offset, request, true);
  view.setUint32(abi.vhost_user_header.flags.offset, flags | abi.VHOST_USER_VERSION, true);
  view.setUint32(abi.vhost_user_header.payload_size.offset, size, true);
  return new Uint8Array(view.buffer);
}
