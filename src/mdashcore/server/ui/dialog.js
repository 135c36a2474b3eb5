// Dialogs, messages and progress, above a view.

import {field, fill, foreign, h, setText, uniqueId} from "./dom.js";

const TOAST_TIME = 6000; // ms that a message without an error stays
const MAX_TOASTS = 5; // messages at the same time: more would cover the view
const NAME_LENGTH = 80, WORDS_LENGTH = 400; // characters in the message of a failure: a device may say anything
const MOST_UNTYPED = 10; // devices that an act may destroy without their number being typed
const SIGN_DELAY = 400; // ms without a sign: below, a sign would only flicker

// ask({title, lost, action, danger, body}): a Promise of true if the person confirms. `lost` says what will be lost;
// `body` is a node between text and buttons. With `onConfirm` (async) the dialog stays open while it runs, and shows
// its error. The act goes on if the dialog is closed meanwhile: the Promise keeps its value, and a message reports the
// end. `destroys` is a number of devices: of more than a few, a person has to type it.
export function ask({title, lost, body, action = "OK", danger = false, destroys = 0, onConfirm}) {
  return new Promise((resolve) => {
    const error = errorLine();
    const yes = h("button", {type: "submit", class: danger ? "danger" : "primary"}, action);
    const no = h("button", {type: "button", autofocus: danger, onclick: () => dialog.close()}, "Cancel");
    let running = false, left = false, done = false;

    function run(is) {
      running = yes.disabled = is;
      yes.setAttribute("aria-busy", is);
      setText(no, is ? "Hide" : "Cancel"); // the act cannot be cancelled
    }

    async function confirm(event) {
      event.preventDefault();
      error.clear();
      run(true);
      try {
        const value = await onConfirm?.(form);
        done = value === undefined ? true : value;
        if (dialog.open) dialog.close();
        else toast([foreign(name), ": done."]);
      } catch (problem) {
        if (dialog.open) error.show(problem);
        else tellFailure(name, problem);
      }
      run(false);
      if (left) resolve(done);
    }

    const form = h("form", {onsubmit: confirm}, lost && h("p", {}, lost), body, destroys > MOST_UNTYPED && typed(destroys), error.element, h("div", {class: "actions"}, no, yes));
    const dialog = open(title, form, () => {
      left = running;
      if (left) toast([foreign(name), " goes on. You are told how it ends."]);
      else resolve(done);
    });
    const name = dialog.firstChild.textContent.replace(/\?$/, "");
  });
}

function typed(number) {
  return field(`Type ${number} to confirm`, h("input", {name: "number", required: true, pattern: String(number), title: String(number), inputmode: "numeric", autocomplete: "off"}));
}

// open("Title", content, onClose): a modal dialog; returns the <dialog>. Escape closes it, the focus goes back.
export function open(title, content, onClose) {
  const id = uniqueId("dialog");
  const before = document.activeElement;
  const dialog = h("dialog", {"aria-labelledby": id}, h("h2", {id}, title), content);
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before?.isConnected) before.focus();
    else document.getElementById("main").focus({preventScroll: true}); // the element that opened the dialog is gone
    onClose?.();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// A dialog with a secret that is shown this once: Escape and another view do not close it, and to leave the page is asked
// first. A logout closes it.
export function openOnce(title, content, onClose) {
  const note = h("p", {class: "note", role: "alert"}, "It is not shown again. Copy it, then close this with Done.");
  const ended = new AbortController();
  const stay = (event) => {
    if (event.type === "keydown" && event.key !== "Escape") return;
    event.preventDefault();
    if (event.type !== "beforeunload" && !note.isConnected) dialog.append(note);
  };
  const dialog = open(title, content, () => {
    ended.abort();
    onClose?.();
  });
  dialog.dataset.once = "";
  dialog.addEventListener("cancel", stay);
  for (const [target, kind] of [[document, "keydown"], [window, "beforeunload"]]) target.addEventListener(kind, stay, {capture: true, signal: ended.signal});
  return dialog;
}

// toast("Saved"): a short message, text or nodes, also read out. Errors belong where the act was: see errorLine.
export function toast(text, {error = false, lasting = error, action} = {}) {
  const close = () => element.remove();
  const element = h("div", {class: error ? "toast error" : "toast", role: error ? "alert" : "status"},
    h("span", {}, text),
    action && h("button", {type: "button", class: "quiet", onclick: () => { close(); action.run(); }}, action.label),
    h("button", {type: "button", class: "quiet icon", "aria-label": "Dismiss", onclick: close}, "×"));
  const all = document.getElementById("toasts");
  all.append(element);
  const older = [...all.children].slice(0, -1);
  if (older.length >= MAX_TOASTS) (older.find((other) => !other.classList.contains("error")) ?? older[0]).remove();
  if (!lasting) setTimeout(close, TOAST_TIME);
  return close;
}

// Reports the failure of an act whose view was left. The end of the session is reported elsewhere.
export function tellFailure(name, error) {
  if (error.status !== 401) toast([foreign(short(name, NAME_LENGTH)), ": ", foreign(short(inWords(error), WORDS_LENGTH))], {error: true});
}

const short = (text, most) => (text.length > most ? `${text.slice(0, most)}…` : text);

// Removes the messages of the session that has ended.
export function forgetToasts() {
  fill(document.getElementById("toasts"));
}

// Shows a sign for a task that takes longer than a moment; returns the function that ends it.
export function loading() {
  let close = () => {};
  const timer = setTimeout(() => { close = toast("Loading…", {lasting: true}); }, SIGN_DELAY);
  return () => {
    clearTimeout(timer);
    close();
  };
}

// A place for an error beside its cause: {element, show(error), clear()}.
export function errorLine() {
  const element = h("p", {class: "error-line", role: "alert", hidden: true});
  return {
    element,
    show: (error) => {
      element.hidden = false;
      setText(element, inWords(error));
    },
    clear: () => {
      element.hidden = true;
      fill(element);
    },
  };
}

// Returns an error in words for people: "The device is not connected" rather than a class name.
export function inWords(error) {
  const said = error?.message || String(error);
  const text = error?.retryAfter ? said.replace(/[;,.] try again later\.?$/i, "") : said; // the time is added below
  const wait = error?.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".") + wait;
}

// Runs an async act for a button, which is busy meanwhile. An error shows in `line`, or as a message if the view was
// left. Returns the result, or undefined.
export async function act(button, line, run) {
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  line.clear();
  try {
    return await run();
  } catch (error) {
    if (line.element.isConnected) line.show(error);
    else tellFailure(button.textContent, error);
    return undefined;
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
}

// A progress bar: {element, set(fraction 0…1 or null if unknown, text)}.
export function progress(label) {
  const bar = h("progress", {max: 1, "aria-label": label});
  const text = h("span", {class: "muted"});
  return {
    element: h("div", {class: "progress"}, bar, text),
    set: (fraction, words = "") => {
      if (fraction === null) bar.removeAttribute("value");
      else bar.value = fraction;
      setText(text, words);
    },
  };
}

// Has a screen reader read out a change that is otherwise only visible.
export function announce(text) {
  setText(document.getElementById("announce"), text);
}

// copyButton(() => "text"): copies, and confirms it on the button.
export function copyButton(getText, label = "Copy") {
  const button = h("button", {type: "button", onclick: async () => {
    try {
      await navigator.clipboard.writeText(getText());
      setText(button, "Copied");
    } catch {
      setText(button, "Select and copy by hand"); // without TLS, browsers give pages no clipboard
    }
    setTimeout(() => setText(button, label), 2000);
  }}, label);
  return button;
}

// Replaces an empty list: says what would be here, and what to do next.
export function empty(title, text, ...actions) {
  return h("div", {class: "empty"}, h("h2", {}, title), h("p", {}, text), actions.length > 0 && h("div", {class: "actions"}, actions));
}
