/** MAC addresses of a machine's network interfaces. */
import { createHash } from 'node:crypto';
import { UsageError } from '../host/errors.ts';

/** Six bytes of `52:54:00:12:34:56`. @throws UsageError when it is not the address of one device */
export function parseMac(text: string): Uint8Array {
  const valid = /^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/i.test(text);
  const bytes = Uint8Array.from(text.split(':'), (part) => Number.parseInt(part, 16));
  if (valid && ((bytes[0] ?? 1) & 1) === 0 && bytes.some((byte) => byte !== 0)) return bytes;
  throw new UsageError(
    'E_NET_MAC',
    `MAC address ${JSON.stringify(text)} is not a unicast address, such as 52:54:00:12:34:56`,
  );
}

/** The same for the same name, so that a guest's configuration keeps fitting. */
export function generateMac(tapName: string): Uint8Array {
  const bytes = new Uint8Array(createHash('sha256').update(`nodevmm ${tapName}`).digest()).slice(
    0,
    6,
  );
  // Locally administered, one device.
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 2;
  return bytes;
}

/** `52:54:00:12:34:56` of six bytes. */
export function formatMac(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}
