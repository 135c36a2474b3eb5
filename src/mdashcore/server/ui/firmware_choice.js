// A choice between a file and the images of the firmware library.

import {get} from "./api.js";
import {bytes, field, h} from "./dom.js";

// "lamp 2.0 for esp32, 20 KB": an image of the library in words.
const imageWords = ({name, version, platform, size}) =>
  [[name, version].filter(Boolean).join(" "), platform && ` for ${platform}`, `, ${bytes(size)}`].filter(Boolean).join("");

// libraryChoice({chosen, onChange(image or null)}): {element, image()}. `chosen` is the id of an image that is chosen
// from the beginning: then `onChange` is called once it is known whether the library has it. The element is hidden while
// the library has nothing, or cannot be read: a file is chosen then.
export function libraryChoice({chosen = "", onChange}) {
  const images = new Map();
  const select = h("select", {name: "firmware", onchange: () => onChange(image())}, h("option", {value: ""}, "a file of this computer"));
  const element = field("Source", select);
  const image = () => images.get(select.value) ?? null;
  element.hidden = true;
  get("/firmware").then((found) => {
    for (const each of found.filter(({damaged, state}) => !damaged && state === "KEPT")) {
      images.set(each.id, each);
      select.append(h("option", {value: each.id}, imageWords(each)));
    }
    element.hidden = images.size === 0;
    if (images.has(chosen)) select.value = chosen;
  }).catch(() => {}).then(() => chosen && onChange(image()));
  return {
    element,
    image,
    clear: () => {
      select.value = "";
    },
  };
}
