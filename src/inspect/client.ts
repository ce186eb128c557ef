/**
 * What runs in the browser: takes the view as it changes, puts only what differs into the page, and
 * turns the hands the way that indices go.
 */
export const CLIENT = `'use strict';
const live = document.getElementById('live');
const notice = document.getElementById('notice');

function morph(from, to) {
  if (from.nodeType === Node.TEXT_NODE) {
    if (from.data !== to.data) from.data = to.data;
    return;
  }
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
    else if (old.nodeName === child.nodeName) morph(old, child);
    else old.replaceWith(child);
  }
  while (from.childNodes.length > next.length) from.lastChild.remove();
}

const turns = new WeakMap();
function turnHands() {
  for (const hand of live.querySelectorAll('[data-turn]')) {
    const turn = Number(hand.dataset.turn);
    const before = turns.get(hand) ?? turn;
    const now = before + ((((turn - before) % 1) + 1) % 1);
    turns.set(hand, now);
    hand.style.transform = 'rotate(' + now + 'turn)';
  }
}

function show(html) {
  const view = document.createElement('template');
  view.innerHTML = html;
  const main = document.createElement('main');
  main.id = live.id;
  main.append(view.content);
  morph(live, main);
  turnHands();
}

let source;
let lost = false;
function say(text, isLoss) {
  notice.textContent = text;
  lost = isLoss;
}
function follow() {
  source?.close();
  source = new EventSource('events' + location.search);
  source.addEventListener('view', (event) => {
    if (lost) say('', false);
    show(JSON.parse(event.data));
  });
  source.addEventListener('problem', (event) => {
    say(JSON.parse(event.data), true);
  });
  source.addEventListener('error', () => {
    say('nodevmm inspect no longer answers.', true);
  });
}

document.addEventListener('submit', async (event) => {
  event.preventDefault();
  const body = new URLSearchParams(new FormData(event.target, event.submitter));
  const answer = await fetch(event.target.action, { method: 'POST', body, redirect: 'manual' });
  say(answer.type === 'opaqueredirect' ? '' : await answer.text(), false);
});

document.addEventListener('click', (event) => {
  const link = event.target.closest('a');
  if (link === null || event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  history.pushState(null, '', link.getAttribute('href'));
  say('', false);
  follow();
});
addEventListener('popstate', follow);

turnHands();
follow();
`;
