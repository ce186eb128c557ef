/** Errors that cross from one process to another. */
import {
  InternalError,
  messageParts,
  NodeVmmError,
  PeerError,
  UsageError,
} from '../../host/errors.ts';
import { given } from '../../options/option-schema.ts';
import type { ControlError } from './protocol.ts';

/** An error of any kind, for JSON. */
export function encodeError(error: unknown): ControlError {
  const { name, code } =
    error instanceof NodeVmmError ? error : { name: 'InternalError', code: 'E_INTERNAL' };
  const [problem, remedy] = messageParts(error);
  return given({ name, code, problem, remedy });
}

/** The classes that a code and a problem make. */
const CLASSES: Readonly<Record<string, typeof UsageError | typeof PeerError>> = {
  UsageError,
  PeerError,
};

/** The other process's error, of the same class where that has no fields of its own. @param name of the machine */
export function decodeError(
  { name, code, problem, remedy }: ControlError,
  machine: string,
): NodeVmmError {
  const text = `${machine}: ${problem}`;
  if (code === 'E_INTERNAL') return new InternalError(text);
  const Class = Object.hasOwn(CLASSES, name) ? CLASSES[name] : undefined;
  return new (Class ?? NodeVmmError)(code, text, remedy);
}
