// Accounts, for admins.

import {del, get, post, put} from "../api.js";
import {ask, copyButton, empty, toast} from "../dialog.js";
import {damagedTag, field, fill, h, timeTag} from "../dom.js";
import {freshList} from "../fresh_list.js";

export default async function view({session}) {
  if (!session.admin) {
    return {title: "Users", element: h("section", {class: "page", "aria-label": "Users"}, h("h1", {}, "Users"),
      empty("Only for admins", "An admin adds and removes users. You can change your own password.", h("a", {class: "button", href: "#/profile"}, "To your profile")))};
  }
  const list = freshList({
    items: await get("/users"),
    read: () => get("/users"),
    keyOf: ({name}) => name,
    head: h("tr", {}, h("th", {scope: "col"}, "Name"), h("th", {scope: "col"}, "May"), h("th", {scope: "col", class: "hide-phone"}, "Since"),
      h("th", {scope: "col"}, h("span", {class: "visually-hidden"}, "Actions"))),
    row,
  });

  function row({name}) {
    let isAdmin = false;
    const title = h("th", {scope: "row"}), may = h("td", {}), since = h("td", {class: "hide-phone"});
    return {
      element: h("tr", {}, title, may, since, h("td", {class: "end"}, name === session.user
        ? h("a", {class: "button", href: "#/profile"}, "Profile")
        : h("span", {class: "row-actions"}, h("button", {type: "button", "aria-label": `Reset the password of ${name}`, onclick: () => reset(name, isAdmin)}, "Reset…"),
          h("button", {type: "button", class: "bad", "aria-label": `Remove ${name}`, onclick: () => remove(name)}, "Remove…")))),
      draw: ({admin, created_at: created, removing, damaged}) => {
        isAdmin = admin;
        fill(title, name, name === session.user && h("span", {class: "tag"}, "you"), damagedTag(damaged), removing && h("span", {class: "tag warn"}, "removal not finished"));
        fill(may, admin ? "Admin" : "User");
        fill(since, timeTag(created));
      },
    };
  }

  async function add() {
    const name = h("input", {name: "name", required: true, maxlength: 64, autocomplete: "off", autocapitalize: "none", spellcheck: "false"});
    const password = newPassword();
    const admin = adminBox(false);
    const made = await ask({
      title: "Add a user",
      body: [field("Name", name, "A-Z a-z 0-9 . _ @ + - with a letter or digit first"), password.element, admin.element],
      action: "Add",
      onConfirm: () => post("/users", {name: name.value, password: password.value(), admin: admin.value()}),
    });
    if (made) toast(`${made.name} can log in now.`);
    list.reload();
  }

  async function reset(name, isAdmin) {
    const password = newPassword();
    const admin = adminBox(isAdmin);
    const made = await ask({
      title: `Reset the password of ${name}`,
      lost: "Their sessions end immediately, in every browser. Their API keys stay valid.",
      body: [password.element, admin.element],
      action: "Reset",
      onConfirm: () => put(`/users/${encodeURIComponent(name)}`, {password: password.value(), admin: admin.value()}),
    });
    if (made) toast(`${name} has a new password.`);
    list.reload();
  }

  async function remove(name) {
    const path = `/users/${encodeURIComponent(name)}`;
    const {limits} = await get(`${path}/limits`).catch(() => ({limits: []})); // a damaged account has none, and has to go all the same
    const sure = await ask({
      title: `Remove ${name}?`,
      lost: "All devices of this user are removed with their shadows, and so are the rollouts, keys and notifications. This cannot be undone.",
      action: `Remove ${name}`,
      danger: true,
      destroys: limits.find((limit) => limit.name === "devices")?.use ?? 0,
      onConfirm: () => del(path),
    });
    if (sure) {
      toast(`${name} is removed.`);
      list.drop(name);
    }
    list.reload();
  }

  return {
    title: "Users",
    element: h("section", {class: "page stack", "aria-label": "Users"},
      h("header", {class: "page-head flat"}, h("h1", {}, "Users"), h("p", {class: "muted hide-phone"}, "each with devices of their own"),
        h("div", {class: "tools"}, h("a", {class: "button", href: "#/limits"}, "Limits"), h("button", {type: "button", class: "primary", onclick: add}, "Add"))),
      list.element),
    destroy: list.destroy,
  };
}

const PASSWORD_ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"; // without characters that look alike
const PASSWORD_LENGTH = 20; // of those: 115 bits

function newPassword() {
  const input = h("input", {type: "password", name: "password", required: true, maxlength: 1024, autocomplete: "new-password"});
  const make = h("button", {type: "button", onclick: () => {
    input.type = "text"; // the admin has to pass the password on
    input.value = Array.from(crypto.getRandomValues(new Uint32Array(PASSWORD_LENGTH)), (n) => PASSWORD_ALPHABET[n % PASSWORD_ALPHABET.length]).join("");
    input.select();
  }}, "Generate");
  const element = field("Password", input, "tell it to them; they can change it in their profile");
  const beside = h("div", {class: "beside"}, make, copyButton(() => input.value));
  input.before(beside);
  beside.prepend(input);
  return {element, value: () => input.value};
}

function adminBox(checked) {
  const box = h("input", {type: "checkbox", checked, id: "user-admin"});
  return {element: h("div", {class: "check-line"}, box, h("label", {for: box.id}, "Admin: may add, reset and remove users")), value: () => box.checked};
}
