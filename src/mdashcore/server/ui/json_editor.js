// A text area for JSON that shows the place of an error.
//
// jsonEditor({label, value, rows, onChange}): {element, value (throws with words), set(value), type(text), isValid()}

import {h, setText, uniqueId} from "./dom.js";

export function jsonEditor({label, value, rows = 10, onChange, optional = false}) {
  const id = uniqueId("json");
  const status = h("p", {class: "json-status", id: `${id}-status`, "aria-live": "polite"});
  const area = h("textarea", {
    id, rows, spellcheck: "false", autocapitalize: "off", autocomplete: "off", class: "code",
    "aria-describedby": status.id,
    oninput: check,
    onkeydown: indent,
  });

  function parse() {
    if (optional && area.value.trim() === "") return undefined;
    return parseJson(area.value);
  }

  function check() {
    let error = null;
    try {
      parse();
    } catch (problem) {
      error = problem;
    }
    area.setAttribute("aria-invalid", error !== null);
    setText(status, error ? error.message : "");
    onChange?.(error === null);
  }

  // Tab moves on, as everywhere; Ctrl+Enter submits the form.
  function indent(event) {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) area.form?.requestSubmit();
  }

  function type(text) {
    area.value = text;
    check();
  }

  const set = (next) => type(next === undefined ? "" : JSON.stringify(next, null, 2));

  set(value);
  return {
    element: h("div", {class: "field json-editor"}, h("label", {for: id}, label), area, status),
    area,
    get value() {
      try {
        return parse();
      } catch (error) {
        area.focus();
        if (error.position !== undefined) area.setSelectionRange(error.position, error.position + 1);
        throw error;
      }
    },
    set,
    type,
    isValid: () => area.getAttribute("aria-invalid") !== "true",
  };
}

// Parses like JSON.parse. The error has `line`, `column` and `position`, and names them.
export function parseJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    const position = errorPosition(text);
    const before = text.slice(0, position).split("\n");
    const [line, column] = [before.length, before.at(-1).length + 1];
    throw Object.assign(new SyntaxError(`Line ${line}, column ${column}: ${explain(text, position)}`), {position, line, column});
  }
}

const SPACE = /[ \t\n\r]*/y;
const STRING = /"(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*"/y;
const SCALAR = /-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?|true|false|null/y;

// Finds where the text stops being JSON; browsers report it differently or not at all. No recursion, for any depth.
function errorPosition(text) {
  let at = 0;
  const open = []; // the brackets that are still open
  let wanted = "value"; // "value", "value or end", "key", "key or end", "colon", "next"
  const take = (regexp) => {
    regexp.lastIndex = at;
    const found = regexp.exec(text)?.[0];
    at += found?.length ?? 0;
    return found;
  };
  for (;;) {
    take(SPACE);
    const sign = text[at];
    if (sign === open.at(-1) && sign !== undefined && (wanted.endsWith("end") || wanted === "next")) {
      open.pop();
      at += 1;
      wanted = "next";
    } else if (wanted.startsWith("value") && (sign === "{" || sign === "[")) {
      open.push(sign === "{" ? "}" : "]");
      at += 1;
      wanted = sign === "{" ? "key or end" : "value or end";
    } else if (wanted.startsWith("value") && (take(STRING) ?? take(SCALAR))) {
      wanted = "next";
    } else if (wanted.startsWith("key") && take(STRING)) {
      wanted = "colon";
    } else if (wanted === "colon" && sign === ":") {
      at += 1;
      wanted = "value";
    } else if (wanted === "next" && sign === "," && open.length) {
      at += 1;
      wanted = open.at(-1) === "}" ? "key" : "value";
    } else {
      return at;
    }
  }
}

function explain(text, position) {
  if (text.trim() === "") return "JSON is expected";
  if (position >= text.length) return "the text ends too early";
  return `${JSON.stringify(text[position])} is not expected here`;
}
