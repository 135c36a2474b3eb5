// A button that opens a short menu: menuButton("Actions for lamp", () => [{label, run, danger}]).
//
// The arrow keys move in the menu, Escape closes it, and the focus goes back to the button.

import {h} from "./dom.js";

export function menuButton(label, items, props = {}) {
  const button = h("button", {type: "button", class: "quiet icon", "aria-haspopup": "menu", "aria-label": label, title: label, ...props,
    onclick: () => openMenu(label, items(), button.getBoundingClientRect(), () => button.isConnected && button.focus())}, "⋯");
  return button;
}

function openMenu(label, items, at, after) {
  const menu = h("div", {role: "menu", class: "menu", popover: "auto", "aria-label": label, onkeydown: keys},
    items.map(({label: text, run, danger}) => h("button", {
      type: "button", role: "menuitem", tabindex: -1, class: danger ? "quiet bad" : "quiet",
      onclick: () => {
        menu.hidePopover();
        after();
        run();
      }}, text)));
  const buttons = [...menu.children];

  function keys(event) {
    const here = buttons.indexOf(document.activeElement);
    const to = {ArrowDown: here + 1, ArrowUp: here - 1, Home: 0, End: -1}[event.key];
    if (to !== undefined) buttons.at(to % buttons.length).focus();
    else if (event.key === "Tab" || event.key === "Escape") {
      menu.hidePopover();
      after();
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  menu.addEventListener("toggle", (event) => event.newState === "closed" && menu.remove());
  document.getElementById("main").append(menu);
  menu.showPopover();
  const {width, height} = menu.getBoundingClientRect();
  menu.style.left = `${Math.max(8, Math.min(at.right - width, innerWidth - width - 8))}px`;
  menu.style.top = `${at.bottom + height + 8 > innerHeight ? at.top - height - 4 : at.bottom + 4}px`;
  buttons[0]?.focus();
}
