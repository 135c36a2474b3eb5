// What somebody has typed and not sent: it is there again when they come back to the tab.

const drafts = new Map(); // "user/id/tab" → whatever the tab keeps
let owner = null; // another user sees nothing of it

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

// The draft of before, or undefined; it is no longer kept.
export function take(user, id, tab) {
  const key = keyOf(user, id, tab);
  const draft = drafts.get(key);
  drafts.delete(key);
  return draft;
}

// The device is gone, and what was meant for it with it.
export function dropDrafts(id) {
  for (const key of drafts.keys()) if (key.split("/")[1] === id) drafts.delete(key);
}

// Tabs with something that is not sent: the browser asks before the page is left.
const unsent = new Set();

// guard(() => whether there is something unsent): returns the function that ends it.
export function guard(isUnsent) {
  unsent.add(isUnsent);
  return () => unsent.delete(isUnsent);
}

addEventListener("beforeunload", (event) => {
  if (drafts.size > 0 || [...unsent].some((isUnsent) => isUnsent())) event.preventDefault();
});
