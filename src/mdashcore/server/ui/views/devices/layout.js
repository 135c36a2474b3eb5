// Which columns the list of devices has, and how close its rows are: chosen by a person, and kept in the browser.

import {errorLine, open} from "../../dialog.js";
import {field, fill, foreign, h, uniqueId} from "../../dom.js";
import {keep, recall} from "../../kept.js";
import * as live from "../../live.js";
import {placeOf, placeOfKeys} from "../../places.js";
import {leaves} from "../../tree.js";
import {COLUMNS, placeColumn} from "./columns.js";

const MAX_PLACES = 16; // places in the shadow: the server gives no more at a time
const SCANNED_DEVICES = 200; // devices that are looked through for places to suggest
const MAX_SUGGESTED = 200; // places that are suggested

const LAYOUT_KIND = "table", LAYOUT_NAME = "devices"; // what is kept, and its name

const isText = (value) => typeof value === "string";

// listLayout({user, onChange}): {columns() → for the table, places() → of its columns, isDense(), choose()}
export function listLayout({user, onChange}) {
  let {keys, places, dense} = checked(recall(user, LAYOUT_KIND, LAYOUT_NAME)); // `keys`: null for the usual columns

  const isShown = ({key, isFixed, optional}) => isFixed || (keys === null ? !optional : keys.has(key));

  // Columns that a person has chosen are all shown, however narrow the table is.
  function columns() {
    const all = COLUMNS.filter(isShown).map((column) => (keys === null ? column : {...column, drop: undefined}));
    const at = all.findIndex(({key}) => key === "seen" || key === "menu");
    return [...all.slice(0, at), ...places.map(placeColumn), ...all.slice(at)];
  }

  function changed() {
    const isUsual = keys === null && places.length === 0 && !dense;
    keep(user, LAYOUT_KIND, LAYOUT_NAME, isUsual ? undefined : {keys: keys && [...keys], places, dense});
    onChange();
  }

  function choose() {
    const list = h("div", {class: "column-list", role: "group", "aria-label": "Columns"});
    const others = h("ul", {class: "plain-list"});
    const error = errorLine();
    const hints = h("datalist", {id: uniqueId("places")}, suggestions().map((place) => h("option", {value: place})));
    const place = h("input", {id: uniqueId("place"), class: "code", list: hints.id, autocomplete: "off", spellcheck: "false", autocapitalize: "none", placeholder: "reported.temperature"});
    const density = h("select", {onchange: () => {
      dense = density.value === "dense";
      changed();
    }}, h("option", {value: ""}, "comfortable"), h("option", {value: "dense"}, "dense: one line each"));
    density.value = dense ? "dense" : "";

    function draw() {
      fill(list, COLUMNS.filter(({isFixed}) => !isFixed).map((column) => h("label", {class: "check-line"}, h("input", {type: "checkbox", checked: isShown(column), onchange: (event) => {
        keys ??= new Set(COLUMNS.filter(isShown).map(({key}) => key));
        if (event.target.checked) keys.add(column.key);
        else keys.delete(column.key);
        changed();
      }}), column.title)));
      fill(others, places.map((each) => h("li", {class: "beside"}, h("code", {class: "whole"}, foreign(each)), h("button", {type: "button", class: "quiet icon", "aria-label": `Remove the column ${each}`, onclick: () => {
        places = places.filter((other) => other !== each);
        changed();
        draw();
        place.focus();
      }}, "×"))));
      others.hidden = places.length === 0;
    }

    function add(event) {
      event.preventDefault();
      error.clear();
      try {
        const wanted = placeOf(place.value);
        if (places.includes(wanted)) throw new Error("this column is there already");
        if (places.length >= MAX_PLACES) throw new Error(`at most ${MAX_PLACES} places`);
        places = [...places, wanted];
        place.value = "";
        changed();
        draw();
      } catch (problem) {
        error.show(problem);
      }
      place.focus();
    }

    draw();
    const dialog = open("Columns", h("div", {class: "stack"}, list,
      h("form", {class: "stack tight", onsubmit: add}, h("div", {class: "field"}, h("label", {for: place.id}, "A place in the shadow"),
        h("div", {class: "beside"}, place, h("button", {type: "submit"}, "Add"))), hints, error.element, others),
      field("Rows", density),
      h("p", {class: "hint"}, "Without a choice, the list leaves out columns for which the window is too narrow. Your choice is kept in this browser, for your account."),
      h("div", {class: "actions"}, h("button", {type: "button", onclick: () => {
        [keys, places, dense] = [null, [], false];
        density.value = "";
        changed();
        draw();
      }}, "As usual"), h("button", {type: "button", class: "primary", onclick: () => dialog.close()}, "Done"))));
  }

  return {columns, places: () => places, isDense: () => dense, choose};
}

// What another version of the page, or another program, has kept may be anything.
function checked(kept) {
  const {keys, places, dense} = live.isObject(kept) ? kept : {};
  const isPlace = (text) => {
    try {
      return isText(text) && placeOf(text) === text;
    } catch {
      return false;
    }
  };
  return {
    keys: Array.isArray(keys) ? new Set(keys.filter(isText)) : null,
    places: Array.isArray(places) ? [...new Set(places.filter(isPlace))].slice(0, MAX_PLACES) : [],
    dense: dense === true,
  };
}

// Returns places of values that devices report.
function suggestions() {
  const found = new Set();
  let scanned = 0;
  for (const {shadow} of live.devices.values()) {
    for (const section of ["reported", "desired"]) for (const [path] of leaves(shadow.state[section] ?? {})) found.add(placeOfKeys([section, ...path]));
    scanned += 1;
    if (scanned >= SCANNED_DEVICES || found.size >= MAX_SUGGESTED) break;
  }
  return [...found].filter((place) => !/[,\s]/.test(place)).slice(0, MAX_SUGGESTED);
}
