/** What the page can show, and the links to it. */
import { element, escapeText } from './markup.ts';

/** The rings of the selected queue, the drawing of its device, or those of all. */
export type View = (typeof VIEWS)[number];
export const VIEWS = ['rings', 'drawing', 'drawings'] as const;

/** @param text what it names; not escaped yet */
export function viewLink(href: string, text: string, current: boolean): string {
  const attributes = { href, class: 'queue', ...(current ? { 'aria-current': 'true' } : {}) };
  return element('a', attributes, escapeText(text));
}

/** @param view of the device, when it is the selected one */
export function drawingLink(device: string, view: View | undefined): string {
  const href = `?device=${encodeURIComponent(device)}&view=drawing`;
  return viewLink(href, 'drawing', view === 'drawing');
}

/** Whether a device's part of the list stands out. */
export function isChosen(view: View | undefined): boolean {
  return view !== undefined && view !== 'drawings';
}

/** A device's part of the list. */
export function deviceEntry(chosen: boolean, content: string): string {
  return element('section', { class: chosen ? 'device chosen' : 'device' }, content);
}
