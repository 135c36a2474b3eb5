// Keeps the focus near its last place.
//
// A button is disabled while its act runs, and the focused element may be gone or hidden when the act is done. Browsers
// then drop the focus, and people with a keyboard or a screen reader start at the beginning of the page again. Here the
// part of the page around the element has the focus meanwhile, and gives it back as soon as the element can be focused
// again.

const PARTS_SELECTOR = "dialog, form[aria-label], section[aria-label], section[aria-labelledby], main";

let path = []; // the element that a person has focused, and its ancestors, from the inside out
let standIn = null; // the part that has the focus instead
let waiting = false;

const isUsable = (element) => element.isConnected && !element.matches(":disabled") && element.checkVisibility({visibilityProperty: true});

function remember({target}) {
  if (target === standIn) return;
  if (standIn?.id !== "main") standIn?.removeAttribute("tabindex"); // the part can otherwise not be focused
  standIn = null;
  path = [];
  for (let element = target; element instanceof Element; element = element.parentElement) path.push(element);
}

function check() {
  waiting = false;
  const focused = document.activeElement, [lost] = path;
  const isAway = focused === null || focused === document.body || focused === standIn;
  if (lost === undefined || (!isAway && isUsable(focused))) return;
  if (isUsable(lost)) {
    if (focused === standIn) lost.focus({preventScroll: true});
    return; // or a person has moved the focus
  }
  if (focused === standIn && isUsable(standIn)) return;
  const part = path.find((element) => element !== lost && element.matches(PARTS_SELECTOR) && isUsable(element));
  if (!part) return;
  standIn = part;
  part.tabIndex = -1;
  part.focus({preventScroll: true});
}

// Runs once a frame, before the browser itself drops the focus.
function checkSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(check);
}

export function keepFocus() {
  document.addEventListener("focusin", remember);
  new MutationObserver(checkSoon).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ["disabled", "hidden"]});
}
