/** A PCI function of the host on the page. */
import type { InspectedFunction } from '../vfio/inspected-function.ts';
import { barColumns, functionFacts } from './function-facts.ts';
import { element, escapeText } from './markup.ts';
import { deviceEntry, drawingLink, isChosen, type View, viewLink } from './views.ts';

/** Its entry in the list of devices. @param view of it, when it is the selected one */
export function functionLink({ name, address }: InspectedFunction, view: View | undefined): string {
  const title = element('h2', {}, `${escapeText(name)} ${element('small', {}, 'PCI function')}`);
  const link = viewLink(`?device=${encodeURIComponent(name)}`, address, view === 'rings');
  return deviceEntry(isChosen(view), title + drawingLink(name, view) + link);
}

export function functionSection(seen: InspectedFunction): string {
  const facts = functionFacts(seen).map(
    ([name, text]) => element('dt', {}, escapeText(name)) + element('dd', {}, escapeText(text)),
  );
  const rows = seen.bars.map((bar) => {
    const cells = barColumns(bar).map((text) => element('td', {}, escapeText(text)));
    return element('tr', {}, cells.join(''));
  });
  const parts = [
    element('h2', {}, escapeText(seen.name)),
    element('dl', {}, facts.join('')),
    rows.length === 0 ? '' : element('table', {}, element('tbody', {}, rows.join(''))),
  ];
  return element('article', {}, parts.join('\n'));
}
