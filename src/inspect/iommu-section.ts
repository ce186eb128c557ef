/** On the page: guest RAM once for each device behind the IOMMU, with what the device reaches of it. */
import type { InspectedEndpoint, InspectedIommu } from '../machine/inspect-iommu.ts';
import { domainText, faultsText, mappingsText, type Reach, reachIn } from './iommu-facts.ts';
import { element, escapeText } from './markup.ts';

const WIDTH = 512;
const HEIGHT = 14;
/** Mappings that are listed for a device. */
const LISTED = 16;

const KEY_TEXTS: readonly (readonly [Reach, string])[] = [
  ['read', 'read'],
  ['write', 'write'],
  ['both', 'read and write'],
];

/** @param chosen the device whose mappings are listed, if it is behind the IOMMU */
export function iommuSection({ endpoints }: InspectedIommu, chosen: string): string {
  const rows = endpoints.map((one) => {
    const cells = [
      element('th', {}, escapeText(one.device)),
      element('td', { class: 'wide' }, strip(one)),
      element('td', {}, escapeText(domainText(one))),
      element('td', {}, escapeText(mappingsText(one))),
      element('td', { class: 'warning' }, escapeText(faultsText(one))),
    ];
    return element('tr', {}, cells.join(''));
  });
  const key = KEY_TEXTS.map(([reach, text]) =>
    element('span', {}, `${element('i', { class: `swatch reach-${reach}` }, '')}${text}`),
  );
  const listed = endpoints.find(({ device }) => device === chosen);
  const parts = [
    element('h2', {}, 'What devices reach of guest RAM'),
    element('table', {}, element('tbody', {}, rows.join(''))),
    element('p', { class: 'key' }, key.join('')),
    listed === undefined ? '' : mappingTable(listed),
  ];
  return element('section', {}, parts.join('\n'));
}

function strip(endpoint: InspectedEndpoint): string {
  const cells = reachIn(endpoint, endpoint.reach.length);
  const width = WIDTH / cells.length;
  const parts = cells.flatMap((reach, i) =>
    reach === 'none'
      ? []
      : [element('rect', { class: `reach-${reach}`, x: i * width, y: 0, width, height: HEIGHT })],
  );
  const frame = element('rect', { class: 'frame', x: 0, y: 0, width: WIDTH, height: HEIGHT });
  const label = `${endpoint.device}: ${mappingsText(endpoint)}`;
  const attributes = {
    class: 'strip',
    preserveAspectRatio: 'none',
    viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
    role: 'img',
    'aria-label': label,
  };
  return element('svg', attributes, frame + parts.join(''));
}

function mappingTable({ listed, mappings }: InspectedEndpoint): string {
  if (listed.length === 0) return '';
  const shown = listed.slice(0, LISTED);
  const rows = shown.map(({ start, end, gpa, access }) => {
    const texts = [`${start} to ${end}`, gpa, access];
    return element(
      'tr',
      {},
      texts.map((text) => element('td', {}, element('code', {}, escapeText(text)))).join(''),
    );
  });
  const heads = ['device addresses', 'guest physical', 'access']
    .map((text) => element('th', {}, text))
    .join('');
  const more = mappings - shown.length;
  return [
    element('table', {}, element('tbody', {}, element('tr', {}, heads) + rows.join(''))),
    more > 0 ? element('p', { class: 'soft' }, `and ${more} more`) : '',
  ].join('\n');
}
