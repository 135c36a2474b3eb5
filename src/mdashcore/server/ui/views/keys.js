// API keys: the credentials of programs.

import {ROOT, del, get, post} from "../api.js";
import {ask, copyButton, empty, openOnce} from "../dialog.js";
import {ago, damagedTag, field, fill, foreign, h, timeTag} from "../dom.js";
import {freshList} from "../fresh_list.js";

export default async function view() {
  const list = freshList({
    items: await get("/keys"),
    read: () => get("/keys"),
    keyOf: ({id}) => id,
    head: h("tr", {}, h("th", {scope: "col"}, "Name"), h("th", {scope: "col", class: "hide-phone"}, "Id"),
      h("th", {scope: "col", class: "hide-phone"}, "Created"), h("th", {scope: "col"}, "Last used"), h("th", {scope: "col"}, h("span", {class: "visually-hidden"}, "Actions"))),
    row,
    nothing: empty("No keys yet", "A program that works with your devices logs in with a key. Make one for each, so that you can revoke them one by one.", createButton("Create the first key")),
  });

  function row({id, name}) {
    const damage = h("span", {});
    const created = h("td", {class: "hide-phone"}), used = h("td", {});
    return {
      element: h("tr", {}, h("th", {scope: "row"}, name ? foreign(name) : h("span", {class: "muted"}, "without a name"), damage),
        h("td", {class: "hide-phone"}, h("code", {}, id)), created, used,
        h("td", {class: "end"}, h("button", {type: "button", class: "bad", "aria-label": `Delete ${name || id}`, onclick: () => revoke(id, name)}, "Delete…"))),
      draw: (now) => {
        fill(damage, damagedTag(now.damaged));
        fill(created, timeTag(now.created_at));
        fill(used, usedTag(now.last_used));
      },
    };
  }

  async function create() {
    const name = h("input", {name: "name", maxlength: 256, autocomplete: "off"});
    const created = await ask({
      title: "Create a key",
      body: field("Name", name, "for what it is: nightly job, Grafana, …"),
      action: "Create",
      onConfirm: () => post("/keys", {name: name.value.trim()}),
    });
    if (!created) return;
    show(created); // first, because its secret is nowhere else, whatever becomes of the list
    list.reload();
  }

  async function revoke(id, name) {
    const sure = await ask({
      title: h("span", {}, "Delete ", name ? foreign(name) : "the key", "?"),
      lost: "Programs that use it are refused from now on, and their connections are closed. This cannot be undone.",
      action: "Delete",
      danger: true,
      onConfirm: () => del(`/keys/${encodeURIComponent(id)}`),
    });
    if (sure) list.drop(id);
    list.reload();
  }

  function createButton(label) {
    return h("button", {type: "button", class: "primary", onclick: create}, label);
  }

  return {
    title: "Keys",
    element: h("section", {class: "page stack", "aria-label": "Keys"},
      h("header", {class: "page-head flat"}, h("h1", {}, "Keys"), h("p", {class: "muted hide-phone"}, "for programs that act for you"), h("div", {class: "tools"}, createButton("Create"))), list.element),
    destroy: list.destroy,
  };
}

const USE_ROUNDING = 3600; // s by which the stored time of a use may be too early

// The server stores a use once an hour: what is known is the hour in which the last use was.
function usedTag(time) {
  if (time === null) return h("span", {class: "muted"}, "never");
  const begin = new Date(time), end = new Date(begin.getTime() + 1000 * USE_ROUNDING);
  const words = Date.now() < end ? "within the last hour" : `${ago(end)} to ${ago(begin)}`;
  return h("time", {datetime: time, title: `between ${begin.toLocaleString()} and ${end.toLocaleString()}`}, Date.now() >= end && ago(end) === ago(begin) ? ago(begin) : words);
}

function show({name, key}) {
  const line = `curl -H "Authorization: Bearer ${key}" ${location.origin}${ROOT}/api/v2/devices`;
  const dialog = openOnce("The new key", h("div", {class: "stack"},
    h("p", {}, "It may do all that you may with devices. It is shown this once", name && [": ", h("b", {}, foreign(name))], ". Copy it now."),
    h("div", {class: "secret"}, h("code", {class: "token"}, key), copyButton(() => key)),
    h("div", {class: "stack tight"}, h("h3", {}, "Try it"), h("div", {class: "secret"}, h("code", {}, line), copyButton(() => line))),
    h("div", {class: "actions"}, h("button", {type: "button", class: "primary", onclick: () => dialog.close()}, "Done"))));
}
