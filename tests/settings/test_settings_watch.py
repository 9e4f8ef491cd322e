"""The watch tells a change of content, once, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from settings_support import HOME

from sidecar.settings import FileWatch, load
from sidecar.settings.watch import REHASH_EVERY


def test_content_decides(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("a")
    watch = FileWatch([file])
    assert not watch.changed()
    file.write_text("ab")
    assert watch.changed()
    assert not watch.changed()
    os.utime(file, ns=(1, 1))
    assert not watch.changed()
    copy = tmp_path / "copy"
    copy.write_text("ab")
    copy.rename(file)
    assert not watch.changed()


def test_one_of_several_is_enough(tmp_path: Path) -> None:
    files = [tmp_path / "a", tmp_path / "b"]
    watch = FileWatch(files)
    for file in files:
        file.write_text("1")
        assert watch.changed()
        assert not watch.changed()


def test_going_and_coming_back_are_changes(tmp_path: Path) -> None:
    file = tmp_path / "key"
    watch = FileWatch([file])
    assert not watch.changed()
    file.write_text("a")
    assert watch.changed()
    file.unlink()
    assert watch.changed()
    assert not watch.changed()
    file.mkdir()
    assert watch.changed()
    assert not watch.changed()


def test_a_config_map_s_symlink_swap(tmp_path: Path) -> None:
    """As the kubelet does it: new directory, `..data_tmp` onto it, renamed over `..data`; then the old one goes."""
    mount = tmp_path / "etc"

    def project(name: str, content: str) -> None:
        (mount / name).mkdir(parents=True)
        (mount / name / "settings.yaml").write_text(content)
        (mount / "..data_tmp").symlink_to(name)
        (mount / "..data_tmp").rename(mount / "..data")

    project("..2026_01", "canary: {percent: 10}")
    (mount / "settings.yaml").symlink_to("..data/settings.yaml")
    file = mount / "settings.yaml"
    found = load(file, HOME)
    watch = FileWatch(found.files)
    assert not watch.changed()
    project("..2026_02", "canary: {percent: 50}")
    assert watch.changed()
    assert load(file, HOME).settings.canary.percent == 50
    project("..2026_03", "canary: {percent: 50}")
    assert not watch.changed()
    (mount / "..data").unlink()
    assert watch.changed()
    project("..2026_04", "canary: {percent: 50}")
    assert watch.changed()


def test_a_write_that_leaves_the_stat_as_it_was_is_seen_later(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("one")
    watch = FileWatch([file])
    # What a clock too coarse to tell two writes apart looks like: other bytes, the stat that was seen.
    file.write_text("two")
    found = os.stat(file)
    watch._seen[file].stat = (found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)
    assert [watch.changed() for _ in range(REHASH_EVERY)] == [False] * (REHASH_EVERY - 1) + [True]


def test_it_goes_on_from_what_was_loaded(tmp_path: Path) -> None:
    key, file = tmp_path / "key", tmp_path / "settings.yaml"
    key.write_text("sk-one")
    file.write_text(f"ollama_cloud: {{api_key_file: {key}}}")
    found = load(file, HOME)
    key.write_text("sk-two")  # between the load and the first poll
    watch = FileWatch(found.files)
    assert set(watch.paths) == {key, file}
    assert watch.changed()
    assert not watch.changed()


def test_a_file_larger_than_any_settings_is_read_in_part(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_bytes(b"x" * (3 << 20))
    watch = FileWatch([file])
    assert not watch.changed()
    file.write_bytes(b"y" * (3 << 20))
    assert watch.changed()
