// What comes up over a view: dialogs, messages, progress.

import {fill, h, setText, uniqueId} from "./dom.js";

const SHOWN = 6000; // ms that a message without an error stays

// ask({title, lost, action, danger, body}): a Promise of true if the person goes on. `lost` says what will be lost; `body` is a
// node between text and buttons. With `onConfirm` (async) the dialog stays open while it runs and shows what it throws.
export function ask({title, lost, body, action = "OK", danger = false, onConfirm}) {
  return new Promise((resolve) => {
    const error = errorLine();
    const yes = h("button", {type: "submit", class: danger ? "danger" : "primary"}, action);
    const no = h("button", {type: "button", autofocus: danger, onclick: () => dialog.close()}, "Cancel");
    let done = false;
    const form = h("form", {
      onsubmit: async (event) => {
        event.preventDefault();
        yes.disabled = true;
        error.clear();
        try {
          const value = await onConfirm?.(form);
          done = value === undefined ? true : value;
          dialog.close();
        } catch (problem) {
          error.show(problem);
        } finally {
          yes.disabled = false;
        }
      },
    }, lost && h("p", {}, lost), body, error.element, h("div", {class: "actions"}, no, yes));
    const dialog = open(title, form, () => resolve(done));
  });
}

// open("Title", content, onClose): a modal dialog; returns the <dialog>. Escape closes it, the focus goes back.
export function open(title, content, onClose) {
  const id = uniqueId("dialog");
  const before = document.activeElement;
  const dialog = h("dialog", {"aria-labelledby": id}, h("h2", {id}, title), content);
  dialog.addEventListener("close", () => {
    dialog.remove();
    if (before?.isConnected) before.focus();
    onClose?.();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

// toast("Saved"): a short message, read out too. Errors belong where the act was: see errorLine.
export function toast(text, {error = false, action} = {}) {
  const close = () => element.remove();
  const element = h("div", {class: error ? "toast error" : "toast", role: error ? "alert" : "status"},
    h("span", {}, text),
    action && h("button", {type: "button", class: "quiet", onclick: () => { close(); action.run(); }}, action.label),
    h("button", {type: "button", class: "quiet icon", "aria-label": "Dismiss", onclick: close}, "×"));
  document.getElementById("toasts").append(element);
  if (!error) setTimeout(close, SHOWN);
  return close;
}

// A place for an error beside what caused it: {element, show(error), clear()}.
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

// An error for people: "The device is not connected" rather than a class name.
export function inWords(error) {
  const text = error?.message || String(error);
  const wait = error?.retryAfter ? ` Try again in ${error.retryAfter} s.` : "";
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".") + wait;
}

// Runs an async act for a button: it is busy meanwhile, and an error shows in `line`. Returns the result, or undefined.
export async function act(button, line, run) {
  button.disabled = true;
  button.setAttribute("aria-busy", "true");
  line.clear();
  try {
    return await run();
  } catch (error) {
    line.show(error);
    return undefined;
  } finally {
    button.disabled = false;
    button.removeAttribute("aria-busy");
  }
}

// A progress bar: {element, set(fraction 0…1 or null for "no idea", text)}.
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

// Reads something out that only the eye would notice.
export function announce(text) {
  setText(document.getElementById("announce"), text);
}

// copyButton(() => "text"): copies, and says so on itself.
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

// What to show where there is nothing: what it would be, and what to do next.
export function empty(title, text, ...actions) {
  return h("div", {class: "empty"}, h("h2", {}, title), h("p", {}, text), actions.length > 0 && h("div", {class: "actions"}, actions));
}
