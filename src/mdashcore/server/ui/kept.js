// What this browser keeps for a person: small choices, by account, such as the plots of a device. Nothing that is secret.

const KEPT_NAMES = 200; // entries of a kind for an account: devices that a person looks at; the oldest go

const keyOf = (user, kind) => `mdash.${kind}.${user}`;

function read(user, kind) {
  try {
    const found = JSON.parse(localStorage.getItem(keyOf(user, kind)) ?? "[]");
    return Array.isArray(found) ? found.filter((each) => Array.isArray(each) && each.length === 2) : [];
  } catch {
    return []; // the browser keeps nothing, or another program has written there
  }
}

// recall("alice", "plots", "lamp"): the value that was kept, or undefined.
export const recall = (user, kind, name) => read(user, kind).find(([key]) => key === name)?.[1];

// keep("alice", "plots", "lamp", value): `undefined` forgets it.
export function keep(user, kind, name, value) {
  const others = read(user, kind).filter(([key]) => key !== name);
  const entries = value === undefined ? others : [...others, [name, value]];
  try {
    localStorage.setItem(keyOf(user, kind), JSON.stringify(entries.slice(-KEPT_NAMES)));
  } catch {
    // the browser keeps nothing: the choice holds until the page is left
  }
}
