"""The parts that views are made of, each on a page of its own."""

from __future__ import annotations

import json

from playwright.sync_api import expect


def show(page, code):
    """Put what `code` returns in place of the view."""
    page.evaluate(f"async () => document.getElementById('main').replaceChildren(await (async () => {{{code}}})())")


TEXTS = [
    ('{"a": 1}', ""),
    ("", "Line 1, column 1: JSON is expected"),
    ('{"a": tru}', 'Line 1, column 7: "t" is not expected here'),
    ('{\n  "a": 1,\n}', 'Line 3, column 1: "}" is not expected here'),
    ('{"a": "x}', 'Line 1, column 7: "\\"" is not expected here'),
    ("[1] 2", 'Line 1, column 5: "2" is not expected here'),
    ("[" * 50, "Line 1, column 51: the text ends too early"),
    ('{"a": [1, 2', "Line 1, column 12: the text ends too early"),
]


def test_json_that_is_wrong_says_where(workbench):
    """By line and column, beside the text, which is marked as wrong."""
    for text, said in TEXTS:
        made = "return jsonEditor({label: 'State'}).element"
        show(workbench, f"const {{jsonEditor}} = await import(ui('json_editor.js')); {made}")
        area = workbench.get_by_label("State")
        area.fill(text)
        expect(workbench.locator(".json-status")).to_have_text(said)
        expect(area).to_have_attribute("aria-invalid", "true" if said else "false")
        expect(workbench.get_by_role("textbox")).to_have_accessible_description(said)


UPDATES = [
    {"desired": {"a": 1, "b": {"c": [1, 2], "d": None}}, "reported": {"a": 1.0}},
    {"reported": {"b": {"c": [1, 2], "x": True}, "a": True}},
    {"desired": {"b": None, "e": {"f": {"g": 1}}, "__proto__": {"h": 1}}},
    {"desired": {"e": "text"}, "reported": {"e": {"f": 1}}},
    {"reported": None},
    {"desired": {"e": {"f": {}}}},
]


def test_a_shadow_followed_live_is_the_server_s(page, person):
    """Merged update by update in the browser, state and delta are what the server has."""
    person.register("lamp")
    expect(page.get_by_text("1 device")).to_be_visible()
    for version, update in enumerate(UPDATES, 1):
        assert person.http.post("/devices/lamp/shadow", json={"state": update}).status_code == 200
        page.evaluate(
            """async (version) => {
              const live = await import(ui("live.js"));
              await new Promise((done) => {
                const look = () => live.devices.get("lamp").shadow.version >= version && done();
                live.onDevice("lamp", look);
                look();
              });
            }""",
            version,
        )
        here = json.loads(
            page.evaluate("async () => JSON.stringify((await import(ui('live.js'))).devices.get('lamp').shadow.state)")
        )
        assert here == person.http.get("/devices/lamp/shadow").json()["state"], update


def test_a_plot_tells_its_values(workbench):
    """By the mouse, by the arrow keys, and in its name."""
    show(
        workbench,
        "const {plot} = await import(ui('spark.js')); const made = plot({label: 'Heat', unit: '°C'});"
        "for (let n = 0; n < 5; n += 1) made.push(1e12 + 1000 * n, 20 + n); return made.element",
    )
    picture = workbench.get_by_role("img", name="Heat: now 24 °C, between 20 °C and 24 °C")
    box = picture.bounding_box()
    workbench.mouse.move(box["x"] + 2, box["y"] + 5)
    expect(workbench.locator("output")).to_contain_text("20 °C at")
    workbench.mouse.move(0, 0)
    expect(workbench.locator("output")).to_have_text("24 °C")
    picture.focus()
    workbench.keyboard.press("ArrowLeft")
    workbench.keyboard.press("ArrowLeft")
    expect(workbench.locator("output")).to_contain_text("23 °C at")


def test_rows_are_selected(workbench, axe):
    """By their boxes, by Space, and all together; what goes is not selected any more."""
    show(
        workbench,
        """
        const {table} = await import(ui("table.js")), {h} = await import(ui("dom.js"));
        const rows = (count) => Array.from({length: count}, (_, n) => ({id: `row${n}`}));
        const said = h("output", {"aria-label": "Selected"});
        const made = table({label: "Rows", selectable: true, rowKey: ({id}) => id,
          onSelect: (keys) => said.value = [...keys].join(),
          columns: [{key: "id", title: "Id", cell: ({id}) => id, sort: ({id}) => id}]});
        made.set(rows(3));
        window.fewer = () => made.set(rows(2));
        return h("section", {class: "page fill"}, h("h1", {}, "Rows"), made.element, said);
        """,
    )
    said = workbench.get_by_label("Selected")
    workbench.get_by_label("Select row1").check()
    expect(said).to_have_text("row1")
    workbench.get_by_role("row", name="row2").focus()
    workbench.keyboard.press("Space")
    expect(said).to_have_text("row1,row2")
    axe(workbench)
    workbench.evaluate("window.fewer()")
    expect(said).to_have_text("row1")
    workbench.get_by_label("Select all").check()
    expect(said).to_have_text("row1,row0")
    expect(workbench.get_by_role("row", selected=True)).to_have_count(2)


def test_a_confirmation_says_what_is_lost(workbench, axe):
    """The focus is on the harmless button; an error stays in the dialog; Escape changes nothing."""
    workbench.evaluate(
        """async () => {
          const {ask} = await import(ui("dialog.js"));
          let tries = 0;
          window.answers = [];
          window.again = async () => window.answers.push(await ask({
            title: "Delete lamp?", lost: "Its shadow is lost.", action: "Delete", danger: true,
            onConfirm: async () => { if (!tries++) throw new Error("the device is busy"); },
          }));
          window.again();
        }"""
    )
    dialog = workbench.get_by_role("dialog", name="Delete lamp?")
    expect(dialog).to_contain_text("Its shadow is lost.")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    axe(workbench)
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog.get_by_role("alert")).to_have_text("The device is busy.")
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog).to_be_hidden()
    workbench.evaluate("void window.again()")
    workbench.keyboard.press("Escape")
    expect(workbench.locator("dialog")).to_have_count(0)  # it goes with its answer
    assert workbench.evaluate("window.answers") == [True, False]
