"""The guide for moving a fleet: its file and its commands, on a server."""

from __future__ import annotations


def test_a_fleet_moves_with_its_tokens(page, start, mdash, tmp_path, monkeypatch):
    """The file is imported, a device connects with the token that it had, and new devices get tokens of their own."""
    guide = page("docs/how_to_guides/move_from_mdash.md")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "fleet.csv").write_text(guide.code("file"))
    with start("exec mdash serve --bind 127.0.0.1:0 --store memory:// --register-admin admin:SECRET") as server:
        address = server.expect(r"^Listening on http://(\S+)$")[1]
        admin = {"MDASH_SERVER": f"http://{address}"}
        alice = admin | {"MDASH_USER": "alice:pw"}
        mdash("mdash user add alice --password pw --user admin:SECRET", env=admin)
        (imported,) = guide.blocks("import")
        said = mdash(imported.code.strip(), env=admin)
        assert said in imported.after
        assert "site=berlin indoor" in mdash("mdash devices list --filter id=lamp", env=alice)
        assert mdash(page("docs/reference/filters.md").code("list").strip(), env=alice) == ""  # not silent for long
        with start(f"exec {guide.code('one').strip().replace('127.0.0.1:8080', address)}") as device:
            device.expect("lamp")
            assert device.interrupt() == 0
        (tmp_path / "fleet.csv").write_text("id,name\nlamp,\npump,Pump\n")
        assert mdash(guide.code("new").strip(), env=alice) == "1 registered, 1 were there already, 0 failed\n"
        assert "pump,mdd_" in (tmp_path / "tokens.csv").read_text()
