// Parts of the views of the firmware library.

import {h} from "../../dom.js";

const COUNTS = [["running", "good", "run it"], ["updating", "busy", "are being updated"], ["failed", "warn", "have failed"]];

// Returns the numbers of devices as tags; a dash for none.
export function countTags(counts) {
  const tags = COUNTS.filter(([use]) => counts?.[use]).map(([use, tone, words]) => h("span", {class: `tag ${tone}`}, `${counts[use].toLocaleString("en")} ${words}`));
  return tags.length ? tags : h("span", {class: "muted"}, "–");
}
