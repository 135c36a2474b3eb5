// A table of any length: only the visible rows are in the document.
//
// table({label, columns, rowKey, onOpen, selectable, onSelect, sort, onSort, onEnd, empty})
//   columns: [{key, title, width, cell(row) → node or text, sort?(row) → text or number, hide?: "phone", end?: true,
//              min?, drop?}]
//            `width` is a grid track such as "2fr", "8rem", "minmax(10rem, 3fr)"; `min` its smallest width in rem. Of the
//            columns with `drop` those with the greatest are left out while the table is too narrow for all; if it is too
//            narrow for the others, it is scrolled
//   onOpen(row): Enter or a click on the row.   onSelect(set of keys)   onSort({key, down})
//   onEnd(): the last rows are in view.
//   empty: a node to show in place of no rows.
// returns {element, set(rows, {sorted}), touch(keys), setColumns(columns), selection, clearSelection(), focus()}
//   set: other rows, in any order. With `sorted`, the keys of the columns by which another one sorts them, they stay in
//        the order in which they come: `onSort` lets that one sort them anew.
//   touch: the rows of these keys have other values.
//
// Keys: up, down, page up/down, home, end move; Enter opens; Space selects, with Shift all from the
// last one on; right leads to the links and buttons in the row, Escape back to it.

import {fill, h} from "./dom.js";
import {CHECK_WIDTH, fittingColumns, widthOf} from "./table_columns.js";

const MAX_PRINTED = 2000; // rows on paper: forty pages

const OVERSCAN = 8; // rows above and below the visible ones, so that quick scrolling shows no gaps

const collator = new Intl.Collator("en", {numeric: true, sensitivity: "base"});

export function table({label, columns: given, rowKey, onOpen, selectable = false, onSelect, sort, onSort, onEnd, empty}) {
  let chosen = given; // all columns, also those for which there is no room
  let columns = given;
  let rows = [];
  let sorted = null; // the keys of the columns by which another one sorts the rows; null if they are sorted here
  let order = []; // rows, sorted
  const places = new Map(); // key → the value that its row is sorted by
  let sorting = sort ?? {key: columns.find((column) => column.sort)?.key, down: false};
  let active = 0; // index of the row that has the tab stop
  let anchor = null; // the key of that row, which stays active when the order changes
  const selection = new Set();
  const shown = new Map(); // key → {element, index, stale}

  const all = selectable && h("input", {type: "checkbox", "aria-label": "Select all", disabled: true, onchange: () => {
    if (all.checked) for (const row of order) selection.add(rowKey(row));
    else selection.clear();
    selected();
  }});
  const head = h("div", {class: "table-row table-head", role: "row", "aria-rowindex": 1},
    selectable && h("div", {role: "columnheader", class: "check"}, all));
  const space = h("div", {class: "table-space", role: "rowgroup"});
  const element = h("div", {class: "table", role: "grid", "aria-label": label, "aria-multiselectable": selectable ? "true" : null, onkeydown: keys},
    h("div", {role: "rowgroup", class: "table-top"}, head), space);
  const nothing = h("div", {class: "table-empty", hidden: true}, empty);
  const box = h("div", {class: "table-box"}, element, nothing);

  // Chooses the columns for which there is room, and draws their headings. Returns whether they are others than before.
  function layOut() {
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const fitting = fittingColumns(chosen, element.clientWidth > 0 ? element.clientWidth / rem : Infinity, {selectable});
    const isSame = fitting.length === columns.length && fitting.every((column, i) => column === columns[i]) && head.children.length > (selectable ? 1 : 0);
    if (isSame) return false;
    columns = fitting;
    const check = selectable ? [`${CHECK_WIDTH}rem`] : [];
    element.style.setProperty("--tracks", [...check, ...columns.map(({width}) => width ?? "1fr")].join(" "));
    element.style.setProperty("--phone-tracks", [...check, ...columns.filter(({hide}) => hide !== "phone").map(({phone, width}) => phone ?? width ?? "1fr")].join(" "));
    element.style.setProperty("--least-width", `${columns.some(({min}) => min) ? widthOf(columns, {selectable}) : 0}rem`);
    fill(head, selectable && head.firstElementChild, columns.map((column) => heading(column)));
    markSort();
    return true;
  }
  layOut();

  let frame = 0;
  const later = () => {
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      render();
    });
  };
  element.addEventListener("scroll", later, {passive: true});
  element.addEventListener("focusin", (event) => { // the focused row is the active one
    const index = Number(event.target.closest(".table-space .table-row")?.getAttribute("aria-rowindex")) - 2;
    if (index >= 0 && index !== active) {
      active = index;
      anchor = rowKey(order[active]);
      later();
    }
  });
  new ResizeObserver(() => (layOut() ? render(true) : later())).observe(element);
  let isPrinted = false; // then all rows are drawn
  for (const kind of ["beforeprint", "afterprint"]) {
    element.addEventListener(kind, () => {
      isPrinted = kind === "beforeprint";
      render();
    });
  }
  let pressed = null; // the row on which a mouse button or a finger is down
  element.addEventListener("pointerdown", (event) => {
    pressed = event.target.closest(".table-space .table-row");
    const released = new AbortController(); // by the first of these events
    for (const kind of ["pointerup", "pointercancel"]) {
      addEventListener(kind, () => {
        released.abort();
        setTimeout(() => { // after the click
          pressed = null;
          later();
        });
      }, {signal: released.signal});
    }
  });

  function heading(column) {
    const content = column.sort
      ? h("button", {type: "button", class: "sort", onclick: () => {
          sorting = {key: column.key, down: sorting.key === column.key && !sorting.down};
          onSort?.(sorting);
          arrange();
          render(true);
        }}, column.title, h("span", {class: "arrow", "aria-hidden": "true"}))
      : column.title;
    return h("div", {role: "columnheader", class: classes(column), "data-key": column.key, title: column.hint}, content);
  }

  function classes({hide, end}) {
    return [hide && `hide-${hide}`, end && "end"].filter(Boolean).join(" ") || null;
  }

  function arrange() {
    const column = chosen.find(({key}) => key === sorting.key);
    order = [...rows];
    places.clear();
    if (column?.sort && sorted === null) {
      const sign = sorting.down ? -1 : 1;
      const keyed = order.map((row) => [column.sort(row), row]);
      for (const [value, row] of keyed) places.set(rowKey(row), value);
      keyed.sort(([a], [b]) => sign * compare(a, b));
      order = keyed.map(([, row]) => row);
    }
    markSort();
    const found = anchor === null ? -1 : order.findIndex((row) => rowKey(row) === anchor);
    active = found >= 0 ? found : Math.max(0, Math.min(active, order.length - 1));
  }

  function markSort() {
    for (const cell of head.querySelectorAll("[data-key]")) {
      const mine = cell.dataset.key === sorting.key;
      if (mine) cell.setAttribute("aria-sort", sorting.down ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
      const button = cell.querySelector("button");
      if (!button) continue;
      button.disabled = sorted !== null && !sorted.includes(cell.dataset.key);
      button.title = button.disabled ? "The server does not sort by this" : "";
    }
  }

  // Whether one of these rows may stand in another place now. Most changes move none, and to sort a fleet takes long.
  function isMoved(keys) {
    const column = chosen.find(({key}) => key === sorting.key);
    return sorted === null && Boolean(column?.sort) && rows.some((row) => keys.has(rowKey(row)) && places.get(rowKey(row)) !== column.sort(row));
  }

  function rowHeight() {
    return parseFloat(getComputedStyle(element).getPropertyValue("--row-height")) || 44;
  }

  function render(stale = false) {
    const height = rowHeight();
    const first = isPrinted ? 0 : Math.max(0, Math.floor(element.scrollTop / height) - OVERSCAN);
    const last = Math.min(order.length, isPrinted ? MAX_PRINTED : Math.ceil((element.scrollTop + element.clientHeight) / height) + OVERSCAN);
    space.style.height = `${order.length * height}px`;
    element.setAttribute("aria-rowcount", order.length + 1);
    element.hidden = order.length === 0 && empty !== undefined;
    nothing.hidden = !element.hidden;
    const wanted = new Set();
    const indices = [];
    for (let i = first; i < last; i += 1) indices.push(i);
    if (active < first || active >= last) if (order[active] && shown.get(anchor)?.element.contains(document.activeElement)) indices.push(active);
    for (const i of indices) {
      const key = rowKey(order[i]);
      wanted.add(key);
      const known = shown.get(key);
      if (known && !known.stale && !stale && known.row === order[i]) place(known, i, height);
      else draw(key, order[i], i, height, known);
    }
    for (const [key, {element: node}] of shown) {
      if (!wanted.has(key)) {
        node.remove();
        shown.delete(key);
      }
    }
    inOrder(indices.sort((a, b) => a - b).map((i) => shown.get(rowKey(order[i])).element));
    if (all) {
      all.disabled = order.length === 0; // a choice of no rows would be lost without a word when they come
      all.checked = selection.size > 0 && selection.size >= order.length;
      all.indeterminate = selection.size > 0 && selection.size < order.length;
    }
    if (last >= order.length && !isPrinted) onEnd?.();
  }

  // A screen reader finds the rows in the order on the screen.
  function inOrder(nodes) {
    let before = null;
    for (const node of nodes) {
      const place = before ? before.nextSibling : space.firstChild;
      if (place !== node) {
        const focused = node.contains(document.activeElement) && document.activeElement;
        space.insertBefore(node, place);
        if (focused) focused.focus({preventScroll: true}); // moving an element drops its focus
      }
      before = node;
    }
  }

  function draw(key, row, index, height, known) {
    const cells = columns.map((column) => h("div", {role: "gridcell", class: classes(column)}, column.cell(row)));
    const check = selectable && h("div", {role: "gridcell", class: "check"}, h("input", {
      type: "checkbox", tabindex: -1, checked: selection.has(key), "aria-label": `Select ${key}`, onclick: (event) => toggle(key, event.shiftKey)}));
    const entry = known ?? {element: h("div", {class: "table-row", role: "row", onclick: (event) => clicked(event, key)})};
    if (entry.element === pressed) return void Object.assign(entry, {stale: true}); // else the click would miss
    const focused = stops(entry.element).indexOf(document.activeElement);
    fill(entry.element, check, cells);
    if (focused >= 0) stops(entry.element)[focused]?.focus({preventScroll: true});
    Object.assign(entry, {row, stale: false});
    place(entry, index, height);
    if (!known) {
      shown.set(key, entry);
      space.append(entry.element);
    }
  }

  const stops = (node) => [...node.querySelectorAll("a, button, input")];

  function place(entry, index, height) {
    const node = entry.element;
    node.style.transform = `translateY(${index * height}px)`;
    node.setAttribute("aria-rowindex", index + 2);
    node.tabIndex = index === active ? 0 : -1;
    if (selectable) node.setAttribute("aria-selected", selection.has(rowKey(order[index])));
  }

  function clicked(event, key) {
    if (event.target.closest("a, button, input, .check")) return;
    const index = order.findIndex((row) => rowKey(row) === key);
    move(index);
    onOpen?.(order[index]);
  }

  let toggled = null; // the last one, where a range begins

  function toggle(key, isRange) {
    const [from, to] = [toggled, key].map((each) => order.findIndex((row) => rowKey(row) === each));
    const on = !selection.has(key);
    for (const row of isRange && from >= 0 ? order.slice(Math.min(from, to), Math.max(from, to) + 1) : [order[to]]) {
      if (on) selection.add(rowKey(row));
      else selection.delete(rowKey(row));
    }
    toggled = key;
    selected();
  }

  function selected() {
    for (const [key, {element: node}] of shown) {
      node.setAttribute("aria-selected", selection.has(key));
      const box = node.querySelector(".check input");
      if (box) box.checked = selection.has(key);
    }
    render();
    onSelect?.(selection);
  }

  function move(index) {
    active = Math.max(0, Math.min(index, order.length - 1));
    anchor = order[active] ? rowKey(order[active]) : null;
    const height = rowHeight();
    const top = active * height, visible = element.clientHeight - head.offsetHeight;
    if (top < element.scrollTop) element.scrollTop = top;
    else if (top + height > element.scrollTop + visible) element.scrollTop = top + height - visible;
    render();
    shown.get(anchor)?.element.focus({preventScroll: true});
  }

  function keys(event) {
    if (!event.target.matches(".table-row[role=row]:not(.table-head)")) return inside(event);
    if (event.key === "ArrowRight") return inside(event);
    const page = Math.max(1, Math.floor(element.clientHeight / rowHeight()) - 2);
    const to = {ArrowDown: active + 1, ArrowUp: active - 1, PageDown: active + page, PageUp: active - page, Home: 0, End: order.length - 1}[event.key];
    if (to !== undefined) move(to);
    else if (event.key === "Enter") onOpen?.(order[active]);
    else if (event.key === " " && selectable) toggle(rowKey(order[active]), event.shiftKey);
    else return undefined;
    event.preventDefault();
    return undefined;
  }

  // Moves among the controls in a row.
  function inside(event) {
    const row = event.target.closest(".table-space .table-row");
    const step = {ArrowRight: 1, ArrowLeft: -1}[event.key];
    if (!row || !(step || event.key === "Escape")) return;
    const stops = [row, ...row.querySelectorAll("a, button")];
    stops[step ? Math.max(0, Math.min(stops.indexOf(event.target) + step, stops.length - 1)) : 0].focus();
    event.preventDefault();
  }

  return {
    element: box,
    set: (next, {sorted: by = null} = {}) => {
      rows = [...next];
      sorted = by;
      const keys = new Set(rows.map(rowKey));
      const before = selection.size;
      for (const key of selection) if (!keys.has(key)) selection.delete(key);
      arrange();
      render(true);
      if (selection.size !== before) onSelect?.(selection);
    },
    touch: (changed) => {
      const keys = new Set(changed);
      for (const key of keys) if (shown.has(key)) shown.get(key).stale = true;
      if (isMoved(keys)) arrange();
      render();
    },
    setColumns: (next) => {
      chosen = next;
      if (!chosen.some(({key}) => key === sorting.key)) sorting = sort ?? {key: chosen.find((column) => column.sort)?.key, down: false};
      layOut();
      arrange();
      render(true);
    },
    selection,
    clearSelection: () => {
      selection.clear();
      selected();
    },
    focus: () => move(active),
  };
}

for (const kind of ["beforeprint", "afterprint"]) {
  addEventListener(kind, () => document.querySelectorAll(".table").forEach((each) => each.dispatchEvent(new Event(kind))));
}

function compare(a, b) {
  if (typeof a === "number" && typeof b === "number") return a - b;
  return collator.compare(a ?? "", b ?? "");
}
