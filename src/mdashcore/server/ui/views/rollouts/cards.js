// What the pages of rollouts and of jobs have in common: the list of cards, and how one is removed.

import {ApiError, del} from "../../api.js";
import {ask} from "../../dialog.js";
import {h} from "../../dom.js";
import {go} from "../../router.js";

// cardList({card, none}): {element, draw(items)}. `card(item)` makes {element, draw(item)} for a new id; `none` stands in
// place of an empty list. Cards that stay do not move.
export function cardList({card, none}) {
  const element = h("div", {class: "stack"});
  let cards = new Map(); // id → card
  return {
    element,
    draw: (items) => {
      const before = cards;
      cards = new Map(items.map((each) => [each.id, before.get(each.id) ?? card(each)]));
      for (const each of items) cards.get(each.id).draw(each);
      for (const [id, old] of before) if (!cards.has(id)) old.element.remove();
      none.remove();
      const elements = items.length ? [...cards.values()].map((each) => each.element) : [none];
      elements.forEach((each, i) => element.children[i] === each || element.insertBefore(each, element.children[i] ?? null));
    },
  };
}

// Removes a record that cannot be read, after a question. `what` is its kind, `lost` what becomes of the devices.
export function removeDamaged(path, what, lost) {
  return ask({
    title: `Remove the ${what}?`,
    lost: `Its stored data cannot be read, so it does not continue. ${lost}`,
    action: "Remove",
    danger: true,
    onConfirm: () => del(path),
  });
}

// removal({path, what, lost, devices(), list}): {ask(), isRunning()}. Removes what has ended, after a question, and goes
// to the list. `devices()` is the number of devices whose outcomes are deleted with it.
export function removal({path, what, lost, devices, list}) {
  let running = false; // by this page, which then goes to the list
  return {
    isRunning: () => running,
    ask: async () => {
      const sure = await ask({
        title: `Delete the ${what}?`,
        lost,
        action: "Delete",
        danger: true,
        destroys: devices(),
        onConfirm: async () => {
          running = true;
          try {
            await del(path);
          } catch (problem) {
            running = false;
            if (!isMissing(problem)) throw problem;
          }
        },
      });
      if (sure) go(list);
    },
  };
}

export const isMissing = (problem) => problem instanceof ApiError && problem.status === 404;
