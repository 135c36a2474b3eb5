// The saved filters above the list of devices: a chip for each, and the acts to save and to remove one.

import {del, get, put} from "../../api.js";
import {ask, tellFailure} from "../../dialog.js";
import {field, fill, foreign, h} from "../../dom.js";

const savedPath = (name) => `/filters/${encodeURIComponent(name)}`;

// savedFilters({current() → text, choose(text)}): {element, names(), draw()}. A chip is pressed while its filter is the
// current one; pressed again, it takes the filter away.
export function savedFilters({current, choose}) {
  let saved = [];
  const chips = h("span", {class: "tag-chips"});
  const save = h("button", {type: "button", class: "quiet", onclick: add}, "Save this filter…");
  const drop = h("button", {type: "button", class: "quiet", onclick: remove}, "Remove saved filter…");
  const element = h("div", {class: "saved-filters", role: "group", "aria-label": "Saved filters", hidden: true}, chips, save, drop);

  const isCurrent = ({filter}) => current() === filter;

  function draw() {
    const text = current();
    const active = saved.find(isCurrent);
    save.hidden = !text || active !== undefined;
    drop.hidden = active === undefined;
    element.hidden = saved.length === 0 && save.hidden;
    const before = document.activeElement;
    const focused = [...chips.children].findIndex((chip) => chip === before);
    if (chips.childElementCount !== saved.length || saved.some(({name}, i) => chips.children[i].textContent !== name)) {
      fill(chips, saved.map(({name, filter}) => h("button", {type: "button", class: "tag-chip", title: filter, onclick: () => choose(isCurrent({filter}) ? "" : filter)}, foreign(name))));
      if (focused >= 0) chips.children[Math.min(focused, saved.length - 1)]?.focus();
    }
    saved.forEach((each, i) => chips.children[i].setAttribute("aria-pressed", String(isCurrent(each))));
  }

  async function read() {
    try {
      saved = await get("/filters");
      draw();
    } catch (error) {
      if (error.status === undefined) console.error(error); // a bug
      tellFailure("Saved filters", error);
    }
  }

  async function add() {
    const filter = current();
    const name = h("input", {name: "name", maxlength: 64, required: true, autocomplete: "off", autocapitalize: "none", spellcheck: "false"});
    const done = await ask({
      title: "Save this filter",
      body: [h("p", {}, h("code", {}, foreign(filter))), field("Name of the filter", name, "letters, digits, _ - and . without spaces; @NAME stands for it in other filters and in commands")],
      action: "Save",
      onConfirm: async () => {
        await put(savedPath(name.value.trim()), {filter});
      },
    });
    if (done) await read();
  }

  async function remove() {
    const {name} = saved.find(isCurrent);
    const done = await ask({
      title: h("span", {}, "Remove the saved filter ", foreign(name), "?"),
      body: h("p", {}, "Rollouts that were begun with it stay as they are."),
      action: "Remove",
      danger: true,
      onConfirm: async () => {
        await del(savedPath(name));
      },
    });
    if (done) await read();
  }

  read();
  return {element, draw, names: () => saved.map(({name}) => name)};
}
