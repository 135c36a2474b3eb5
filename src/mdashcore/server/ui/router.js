// Maps the address's fragment to a view: #/device/lamp/shadow.
//
// A view is a function (params) => {element, title, destroy?, update?(params)}. If only the params have changed,
// `update` is called; if it returns true, the view stays, else a new one takes its place.

const routes = [];
let notFound = () => ({title: "Not found"});

// route("/device/:id/:tab?", view)
export function route(pattern, view, options = {}) {
  const names = [];
  const source = pattern.replace(/\/:(\w+)(\?)?/g, (_, name, optional) => {
    names.push(name);
    return optional ? "(?:/([^/]+))?" : "/([^/]+)";
  });
  routes.push({regexp: new RegExp(`^${source}/?$`), names, view, ...options});
}

export function otherwise(view) {
  notFound = view;
}

// Returns the present address: {view, params, query, path, public}. `query` is the part after a "?" in the fragment.
export function match(hash = location.hash) {
  const [path, search = ""] = (hash.replace(/^#/, "") || "/").split("?", 2);
  const query = Object.fromEntries(new URLSearchParams(search));
  for (const {regexp, names, ...found} of routes) {
    const values = regexp.exec(path)?.slice(1);
    if (values) {
      const params = Object.fromEntries(names.map((name, i) => [name, decode(values[i])]));
      return {...found, params, query, path};
    }
  }
  return {view: notFound, params: {}, query, path};
}

function decode(text) {
  try {
    return text === undefined ? undefined : decodeURIComponent(text);
  } catch {
    return text; // a "%" that a person typed
  }
}

// link("device", id, "shadow"): a fragment with its parts encoded.
export const link = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;

// Goes to a view. Other addresses may come from a stranger's link and would leave the page, so they are not used.
export function go(to, {replace = false} = {}) {
  const hash = to?.startsWith("#/") ? to : "#/";
  if (replace) location.replace(hash);
  else location.hash = hash;
}
