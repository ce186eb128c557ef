/** A device's configuration space where the backend has it (VHOST_USER_PROTOCOL_F_CONFIG). */
import {
  VHOST_USER_GET_CONFIG,
  VHOST_USER_PROTOCOL_F_CONFIG,
  VHOST_USER_SET_CONFIG,
} from '../../abi/vhost-user.ts';
import { protocolError } from '../message.ts';
import { readConfigAccess, writeConfigAccess } from '../payload.ts';
import type { Connection } from './connection.ts';

const HEADER = 12;

/** The first bytes of it. @throws PeerError */
export async function readBackendConfig(
  connection: Connection,
  length: number,
): Promise<Uint8Array> {
  if (!connection.has(VHOST_USER_PROTOCOL_F_CONFIG)) {
    throw connection.fail(protocolError('it has no configuration space, which its device needs'));
  }
  const request = { offset: 0, liveMigration: false, bytes: new Uint8Array(length) };
  const answer = await connection.ask(VHOST_USER_GET_CONFIG, writeConfigAccess(request));
  const { payload } = answer;
  if (payload.byteLength === 0 && answer.fds.length === 0) {
    throw connection.fail(protocolError(`it has no ${length} bytes of configuration`));
  }
  const { offset, bytes } = readConfigAccess(connection.plain(answer, HEADER + length));
  if (offset === 0) return bytes.slice();
  throw connection.fail(protocolError(`GET_CONFIG was answered from offset ${offset}`));
}

/** Passes on what the driver wrote. @throws PeerError */
export async function writeBackendConfig(
  connection: Connection,
  offset: number,
  bytes: Uint8Array,
): Promise<void> {
  if (!connection.has(VHOST_USER_PROTOCOL_F_CONFIG)) return;
  const payload = writeConfigAccess({ offset, liveMigration: false, bytes });
  await connection.order(VHOST_USER_SET_CONFIG, payload);
}
