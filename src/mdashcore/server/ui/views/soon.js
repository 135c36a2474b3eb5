// What a view says that is not there yet.

import {empty} from "../dialog.js";
import {h} from "../dom.js";

export const soon = (title, text) => ({
  title,
  element: h("section", {class: "page", "aria-label": title}, h("h1", {}, title), empty("Nothing here yet", text)),
});
