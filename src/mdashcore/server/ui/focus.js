// Keeps the focus near where it was.
//
// A button is disabled while its act runs, and what has the focus may be gone or hidden when the act is done. Browsers then leave the focus
// to nothing, and who works by keyboard or with a screen reader is at the very beginning again. Here the part of the page
// that it was in has it meanwhile, and gives it back as soon as it can be had again.

const PARTS = "dialog, form[aria-label], section[aria-label], section[aria-labelledby], main";

let path = []; // what a person gave the focus to, and all that it is in, from the inside out
let standIn = null; // the part that has it instead
let waiting = false;

const isUsable = (element) => element.isConnected && !element.matches(":disabled") && element.checkVisibility({visibilityProperty: true});

function remember({target}) {
  if (target === standIn) return;
  if (standIn?.id !== "main") standIn?.removeAttribute("tabindex"); // it is no place of its own
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
    return; // or a person took it away
  }
  if (focused === standIn && isUsable(standIn)) return;
  const part = path.find((element) => element !== lost && element.matches(PARTS) && isUsable(element));
  if (!part) return;
  standIn = part;
  part.tabIndex = -1;
  part.focus({preventScroll: true});
}

// Once a frame, before the browser itself takes the focus away.
function checkSoon() {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(check);
}

export function keepFocus() {
  document.addEventListener("focusin", remember);
  new MutationObserver(checkSoon).observe(document.body, {subtree: true, childList: true, attributes: true, attributeFilter: ["disabled", "hidden"]});
}
