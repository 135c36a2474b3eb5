// Shows a JSON value as text.

import {h} from "./dom.js";
import {jsonText} from "./tree.js";

// To be copied, for the answer of a device.
export const jsonBlock = (value, label) => h("pre", {class: "json-block", tabindex: 0, role: "group", "aria-label": label}, jsonText(value, 2));
