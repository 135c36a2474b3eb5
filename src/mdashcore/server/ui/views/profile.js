// The user's own account, password and sessions.

import {get, put} from "../api.js";
import {act, ask, errorLine, toast} from "../dialog.js";
import {field, h} from "../dom.js";
import {isUtc, onZone, setUtc} from "../zone.js";
import {amount, nameOf, share} from "./limits/parts.js";

export default async function view({session, logOut}) {
  const {limits} = await get("/limits");
  const secret = (name, autocomplete) => h("input", {type: "password", name, required: true, maxlength: 1024, autocomplete});
  const old = secret("old", "current-password"), fresh = secret("new", "new-password"), again = secret("again", "new-password");
  const error = errorLine();
  const save = h("button", {type: "submit", class: "primary"}, "Change the password");

  async function submit(event) {
    event.preventDefault();
    const changed = await act(save, error, async () => {
      if (fresh.value !== again.value) {
        again.select();
        throw new Error("The two new passwords are not the same.");
      }
      return put("/me/password", {old: old.value, new: fresh.value});
    });
    if (!changed) return;
    for (const input of [old, fresh, again]) input.value = "";
    toast("The password is changed. All other browsers are logged out.");
  }

  async function everywhere() {
    await ask({
      title: "Log out everywhere?",
      lost: "Every browser in which you are logged in is logged out, this one too. API keys and devices are not affected.",
      action: "Log out everywhere",
      danger: true,
      onConfirm: () => logOut({everywhere: true}),
    });
  }

  const utc = h("input", {type: "checkbox", checked: isUtc(), onchange: () => setUtc(utc.checked)});
  const unlisten = onZone(() => { utc.checked = isUtc(); });

  return {
    title: "Profile",
    destroy: unlisten,
    element: h("section", {class: "page stack narrow", "aria-label": "Profile"},
      h("h1", {}, "Profile"),
      h("div", {class: "card stack"}, h("h2", {}, "You"),
        h("dl", {class: "about"}, h("dt", {}, "Name"), h("dd", {}, session.user),
          h("dt", {}, "May"), h("dd", {}, session.admin ? ["manage users (", h("a", {href: "#/users"}, "Users"), "), and own devices"] : "own devices"),
          h("dt", {}, "Programs"), h("dd", {}, "log in with ", h("a", {href: "#/keys"}, "keys"), ", not with your password"))),
      h("div", {class: "card stack"}, h("h2", {}, "What you have"),
        h("dl", {class: "about"}, limits.map((limit) => [h("dt", {}, nameOf(limit.name)),
          h("dd", {}, share(limit, limit.use), h("span", {class: "muted"}, ` of ${amount(limit.name, limit.limit)}`))]))),
      h("div", {class: "card stack"}, h("h2", {}, "Times"),
        h("label", {class: "choice-line"}, utc, "Show all times in UTC, not in local time. This browser remembers it.")),
      h("form", {class: "card", onsubmit: submit}, h("h2", {}, "Password"),
        h("input", {type: "text", autocomplete: "username", value: session.user, hidden: true, "aria-label": "User"}),
        field("Old password", old), field("New password", fresh), field("New password again", again), error.element,
        h("div", {class: "actions"}, save)),
      h("div", {class: "card stack"}, h("h2", {}, "Sessions"),
        h("p", {class: "muted"}, "A session ends after a day without use, and after a week. If you forgot to log out somewhere, end them all."),
        h("div", {class: "actions"}, h("button", {type: "button", class: "bad", onclick: everywhere}, "Log out everywhere…")))),
  };
}
