/**
 * What runs in the browser: takes the view as it changes, puts only what differs into the page, and
 * turns the hands the way that indices go.
 */
const live = elementOf('live');
const notice = elementOf('notice');
const turns = new WeakMap<Element, number>();
let source: EventSource | undefined;
let lost = false;

function elementOf(id: string): HTMLElement {
  const found = document.getElementById(id);
  if (found === null) throw new Error(`the page has no element ${id}`);
  return found;
}

function morph(from: Element, to: Element): void {
  for (const { name, value } of to.attributes) {
    if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  }
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && name !== 'style') from.removeAttribute(name);
  }
  const next = [...to.childNodes];
  for (const [at, child] of next.entries()) {
    const old = from.childNodes[at];
    if (old === undefined) from.append(child);
    else if (old instanceof Text && child instanceof Text) {
      if (old.data !== child.data) old.data = child.data;
    } else if (
      old instanceof Element &&
      child instanceof Element &&
      old.nodeName === child.nodeName
    ) {
      morph(old, child);
    } else old.replaceWith(child);
  }
  while (from.childNodes.length > next.length) from.lastChild?.remove();
}

function turnHands(): void {
  for (const hand of live.querySelectorAll<SVGElement>('[data-turn]')) {
    const turn = Number(hand.dataset.turn);
    const before = turns.get(hand) ?? turn;
    const now = before + ((((turn - before) % 1) + 1) % 1);
    turns.set(hand, now);
    hand.style.transform = `rotate(${now}turn)`;
  }
}

function show(html: string): void {
  const view = document.createElement('template');
  view.innerHTML = html;
  const main = document.createElement('main');
  main.id = live.id;
  main.append(view.content);
  morph(live, main);
  turnHands();
}

function say(text: string, isLoss: boolean): void {
  notice.textContent = text;
  lost = isLoss;
}

function follow(): void {
  source?.close();
  source = new EventSource(`events${location.search}`);
  source.addEventListener('view', ({ data }) => {
    if (lost) say('', false);
    show(JSON.parse(data));
  });
  source.addEventListener('problem', ({ data }) => say(JSON.parse(data), true));
  source.addEventListener('error', () => say('nodevmm inspect no longer answers.', true));
}

document.addEventListener('submit', async (event) => {
  const { target, submitter } = event;
  if (!(target instanceof HTMLFormElement)) return;
  event.preventDefault();
  const fields = [...new FormData(target, submitter)].map(([key, value]) => [key, String(value)]);
  const body = new URLSearchParams(fields);
  const answer = await fetch(target.action, { method: 'POST', body, redirect: 'manual' });
  say(answer.type === 'opaqueredirect' ? '' : await answer.text(), false);
});

document.addEventListener('click', (event) => {
  const link = event.target instanceof Element ? event.target.closest('a') : null;
  if (link === null || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.pushState(null, '', link.getAttribute('href'));
  say('', false);
  follow();
});
addEventListener('popstate', follow);

turnHands();
follow();
