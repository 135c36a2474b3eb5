// Parts of the views of the firmware library.

import {h} from "../../dom.js";

export const READ_PAUSE = 3000; // ms between two reads: an update tells of each of its states

// Whether a notification may change which devices run an image.
export const changesUse = (name) => name.startsWith("ota.") && name !== "ota.progress";

const TONES = {running: "good", updating: "busy", failed: "warn"};

// Returns the numbers of devices as tags; a dash for none.
export function countTags(counts) {
  const tags = Object.entries(counts ?? {}).filter(([, number]) => number > 0).map(([use, number]) => h("span", {class: `tag ${TONES[use]}`}, `${number.toLocaleString("en")} ${use}`));
  return tags.length ? tags : h("span", {class: "muted"}, "–");
}
