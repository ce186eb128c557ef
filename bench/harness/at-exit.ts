/** What must not stay behind, also when the process ends early. */

const undos = new Set<() => void>();

process.on('exit', () => {
  // The last made goes first.
  for (const undo of [...undos].reverse()) undo();
});

/**
 * Registers something to undo.
 * @param undo synchronous; must not throw
 * @returns undoes it now, and only once
 */
export function undoAtExit(undo: () => void): () => void {
  // An entry of its own for each call.
  const entry = (): void => undo();
  undos.add(entry);
  return () => {
    if (undos.delete(entry)) entry();
  };
}
