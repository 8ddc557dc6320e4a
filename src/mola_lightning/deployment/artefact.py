"""Folders of exported files, with a manifest that says what they are and by which checksums they are whole."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from mola_lightning.core import RunFolderError
from mola_lightning.core.files import atomic_write, sha256

MANIFEST, README = "manifest.json", "README.md"
BEGUN = ".begun"  # in a folder whose export has not ended: the names that were there when it began to write
VERSION = 1


def listed_files(folder: Path) -> set[str]:
    """The files of an artefact by its manifest; empty where there is none that can be read."""
    try:
        return set(read_manifest(folder)["files"])
    except OSError:
        return set()


def begin_artefact(folder: Path, keep: Collection[str] = ()) -> None:
    """Take an older artefact away: its manifest, without which the folder is none, then the files that it listed.

    Args:
        folder: of both.
        keep: files that stay.

    Raises:
        RunFolderError: when the folder cannot be written, or holds files that are of no artefact.
    """
    old = listed_files(folder)
    own = (folder / BEGUN, folder / MANIFEST)
    if folder.is_dir() and not any(path.exists() for path in own):
        others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
        if others:
            raise RunFolderError(
                f"{folder} holds {', '.join(others[:3])}{' ...' * (len(others) > 3)} and no export; choose another "
                "folder with output=, or empty it"
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / BEGUN).touch()
        (folder / MANIFEST).unlink(missing_ok=True)
        for name in old.difference(keep):
            (folder / name).unlink(missing_ok=True)
        there = sorted(path.name for path in folder.iterdir() if path.name != BEGUN)
        (folder / BEGUN).write_text(json.dumps(there), encoding="utf-8")
    except OSError as error:
        raise RunFolderError(f"cannot write {folder}: {error.strerror}. Choose another folder with output=") from error


def abandon_artefact(folder: Path) -> None:
    """Take away what an export that failed has written since :func:`begin_artefact`."""
    if not (folder / BEGUN).is_file():
        return
    before = json.loads((folder / BEGUN).read_text(encoding="utf-8") or "null")
    for path in folder.iterdir() if before is not None else ():
        if path.name not in (*before, BEGUN):
            path.unlink()
    (folder / BEGUN).unlink()


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole."""
    with atomic_write(path, "wb") as file:
        file.write(content)


def finish_artefact(folder: Path, manifest: Mapping[str, Any], files: list[str]) -> dict[str, Any]:
    """Write the manifest, last, with size and checksum of each file; what was written."""
    listed = {name: {"bytes": (folder / name).stat().st_size, "sha256": sha256(folder / name)} for name in files}
    content = {"manifest_version": VERSION, **manifest, "files": listed}
    with atomic_write(folder / MANIFEST) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
        file.write("\n")
    (folder / BEGUN).unlink(missing_ok=True)
    return content


def read_artefact(folder: Path | str) -> dict[str, Any]:
    """The manifest of an exported folder, after a look at each of its files.

    Raises:
        RunFolderError: when there is no manifest, or a file is missing, truncated or altered.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    for name, wanted in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise RunFolderError(
                f"{path} is missing, though {MANIFEST} lists it; copy the folder whole, or export again"
            )
        size = path.stat().st_size
        if size != wanted["bytes"]:
            raise RunFolderError(
                f"{path} has {size} bytes and {MANIFEST} says {wanted['bytes']}: it is not whole, or another file; "
                "copy the folder again, or export again"
            )
        if sha256(path) != wanted["sha256"]:
            raise RunFolderError(
                f"{path} was changed since it was exported: its checksum is not that of {MANIFEST}. Do not use it; "
                "copy the folder again, or export again"
            )
    return manifest


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest alone, whose files nobody looked at.

    Raises:
        RunFolderError: when it is missing or unreadable.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise RunFolderError(
            f"{folder} has no {MANIFEST}: no artefact, or one whose export did not end. Give a folder that mola-export "
            "or mola-compose wrote"
        )
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        version = found["manifest_version"]
        fault = _fault(found) if version == VERSION else None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunFolderError(f"{path} is damaged, or none of ours ({error!r}); export again") from error
    if version != VERSION:
        raise RunFolderError(f"{path} is of version {version}, and this program reads {VERSION}; export again with it")
    if fault:
        raise RunFolderError(f"{path} is damaged, or none of ours ({fault}); export again")
    return found


def _fault(manifest: Mapping[str, Any]) -> str | None:
    """What a manifest says that none of ours says, if anything; what it lacks is an error of Python's own."""
    files = manifest["files"]
    if not all(Path(name).name == name and name not in ("", "..") for name in files):
        return "files outside of the folder"
    if not all({"bytes", "sha256"} <= set(entry) for entry in files.values()):
        return "files without size and checksum"
    if not isinstance(manifest["format"], str):
        return "a format that is no word"
    for name, entry in manifest["tasks"].items():
        if entry["file"] not in files:
            return f"the file of task {name!r} is not among its files"
        if not {"mean", "std", "steps"} <= set(entry["preprocessing"]):
            return f"no mean, std and steps for the images of task {name!r}"
    return None
