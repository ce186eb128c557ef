/** `--env`: variables of the environment, by value or by name. */
import { InvalidArgumentError } from 'commander';

/**
 * Adds one variable to those before it.
 * @param text `NAME=VALUE`, or `NAME` for its value here; an unset one is skipped
 */
export function collectVariable(
  text: string,
  before: Readonly<Record<string, string>> = {},
): Readonly<Record<string, string>> {
  const [, name = '', given] = /^([^=]+)(?:=(.*))?$/s.exec(text) ?? [];
  if (name === '') throw new InvalidArgumentError('Take NAME or NAME=VALUE.');
  const value = given ?? process.env[name];
  return value === undefined ? before : { ...before, [name]: value };
}
