// The login with user and password.

import {login} from "../api.js";
import {act, errorLine} from "../dialog.js";
import {field, h, setText} from "../dom.js";
import {go} from "../router.js";

export default function view({query, enter}) {
  const user = h("input", {name: "user", autocomplete: "username", autocapitalize: "none", spellcheck: "false", required: true,
    oninput: () => countdown && unlock()}); // the lock applies to this user only
  const password = h("input", {name: "password", type: "password", autocomplete: "current-password", required: true});
  const button = h("button", {type: "submit", class: "primary"}, "Log in");
  const error = errorLine();
  let countdown = null;

  async function submit(event) {
    event.preventDefault();
    const found = await act(button, error, async () => {
      try {
        return await login(user.value, password.value);
      } catch (problem) {
        if (problem.retryAfter) lock(problem.retryAfter);
        throw problem;
      }
    });
    if (found) {
      enter(found);
      go(query.to, {replace: true});
    } else if (countdown) {
      button.disabled = true;
    } else {
      password.select();
    }
  }

  // Shows on the button how long the lock lasts, and unlocks the button after it.
  function lock(seconds) {
    let left = seconds;
    clearInterval(countdown);
    const tick = () => {
      if (left <= 0) return unlock();
      setText(button, `Locked for ${left} s`);
      left -= 1;
      return undefined;
    };
    countdown = setInterval(tick, 1000);
    tick();
  }

  function unlock() {
    clearInterval(countdown);
    countdown = null;
    setText(button, "Log in");
    button.disabled = false;
    error.clear();
  }

  return {
    title: "Log in",
    element: h("div", {class: "login"}, h("form", {class: "card", onsubmit: submit},
      h("h1", {}, "Log in"), field("User", user), field("Password", password), error.element, button)),
    focus: () => user.focus(),
    destroy: () => clearInterval(countdown),
  };
}
