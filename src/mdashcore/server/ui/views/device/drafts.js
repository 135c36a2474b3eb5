// Drafts: text that a person has typed and not sent. A tab shows its draft again when the person comes back.

const drafts = new Map(); // "user/id/tab" → the draft of the tab
let owner = null; // the user of the drafts; another user sees none of them

const keyOf = (user, id, tab) => {
  if (user !== owner) drafts.clear();
  owner = user;
  return `${user}/${id}/${tab}`;
};

// Keeps a draft; undefined drops it.
export function keep(user, id, tab, draft) {
  const key = keyOf(user, id, tab);
  if (draft === undefined) drafts.delete(key);
  else drafts.set(key, draft);
}

// Returns an earlier draft, or undefined, and no longer keeps it.
export function take(user, id, tab) {
  const key = keyOf(user, id, tab);
  const draft = drafts.get(key);
  drafts.delete(key);
  return draft;
}

// Drops the drafts for a removed device.
export function dropDrafts(id) {
  for (const key of drafts.keys()) if (key.split("/")[1] === id) drafts.delete(key);
}

// Tabs with unsent changes: the browser asks before the page is left.
const unsent = new Set();

// guard(() => whether there are unsent changes): returns the function that ends it.
export function guard(isUnsent) {
  unsent.add(isUnsent);
  return () => unsent.delete(isUnsent);
}

addEventListener("beforeunload", (event) => {
  if (drafts.size > 0 || [...unsent].some((isUnsent) => isUnsent())) event.preventDefault();
});
