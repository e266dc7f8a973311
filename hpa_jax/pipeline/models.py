"""The verb `models`: list the published models, show one, fetch its files."""

import textwrap
from typing import Any

from ml_collections import ConfigDict

from hpa_jax.models import fetch, published, store
from hpa_jax.models.published import Published


def models(config: ConfigDict, flags: dict[str, Any]) -> None:
    """Run `models list`, `models show NAME` or `models fetch NAME`.

    Raises:
        InputError: unknown name, licence not accepted, or files unavailable or corrupt.
    """
    form, name = flags["form"], flags.get("NAME", "")
    if form == "list":
        print(listed())
    elif form == "show":
        print(shown(name))
    else:
        entry = published.find(name)
        print(fetch.licence_text(name), end="")
        options = (flags.get("out") or "", flags.get("from") or "", flags["accept-licence"] or "")
        folder = fetch.fetch(name, *options)
        print(f"{name} -> {folder}")
        if entry.class_names:
            chosen = folder if flags.get("out") else name
            print(f"next: predict --model={chosen} --config.data.root=FOLDER_OF_IMAGES")


def listed() -> str:
    """Return a table with one line per model: output, kind of images, whether it is fetched."""
    rows = [("name", "gives", "of", "channels", "side", "fetched")]
    for name, entry in published.PUBLISHED.items():
        gives = f"{len(entry.class_names)} classes" if entry.class_names else "features"
        fetched = "yes" if store.record(store.folder_of(name)) else "-"
        if not entry.licence.fetched and fetched == "-":
            fetched = "by hand"
        letters = "".join(channel[0] for channel in entry.channels)
        if "channel 1" in entry.channels:
            letters = str(len(entry.channels))
        rows.append((name, gives, f"one {entry.field}", letters, str(entry.image_size), fetched))
    widths = [max(map(len, column)) for column in zip(*rows)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)) for row in rows]
    return "\n".join([*(line.rstrip() for line in lines), "", "more: models show NAME"])


def shown(name: str) -> str:
    """Return the catalogue entry of a model as text.

    Raises:
        InputError: unknown name.
    """
    entry = published.find(name)
    facts = {
        "what": entry.title,
        "trained for": entry.task,
        "trained on": ", ".join(entry.trained_on),
        "input": f"{', '.join(entry.channels)}; {entry.image_size} x {entry.image_size} pixels"
        + (f" of {entry.pixel_size:.3g} µm" if entry.pixel_size else "")
        + f"; one {entry.field} each",
        "prepared": f"{entry.preparation}; normalize={entry.normalize}",
        "without yellow": _yellow(entry),
        "classes": _classes(entry),
        "feature": f"{entry.embedding} numbers",
        "network": ", ".join(f"{key}={value}" for key, value in entry.network.items()),
        "files": "; ".join(_file(file) for file in entry.files),
        "fetched": _state(name),
        "licence": entry.licence.name,
        "restrictions": entry.licence.restrictions,
        "see": entry.licence.address,
        "home": entry.home,
        "cite": entry.citation,
        "note": " ".join(entry.notes),
    }
    lines = [name]
    for key, text in facts.items():
        if text:
            lines += textwrap.wrap(
                text, 96, initial_indent=f"  {key:<15}", subsequent_indent=" " * 17,
                break_long_words=False, break_on_hyphens=False,
            )  # fmt: skip
    return "\n".join(lines)


def _yellow(entry: Published) -> str:
    if "yellow" not in entry.channels:
        return "not needed"
    if entry.yellow == "zeros":
        return "replaced with 0, and reported"
    rule = "--config.data.folder.missing.yellow=zeros or mean"
    if not entry.of_the_28:
        return rule
    return f"{rule}, or another model: {', '.join(published.without('yellow'))}"


def _classes(entry: Published) -> str:
    if not entry.class_names:
        return "none, features only"
    others = [name for name in entry.class_names if name not in entry.of_the_28]
    if not entry.of_the_28:
        return f"{len(entry.class_names)}, none of them the competition's"
    text = f"{len(entry.class_names)}, {len(entry.of_the_28)} of them the competition's"
    return f"{text}; also {', '.join(others)}" if others else text


def _file(file: published.File) -> str:
    size = f", {file.size:,} bytes" if file.size else ""
    digits = f", SHA-256 {file.digits[:8]}…" if file.digits else ""
    place = file.url or (f"in the package {file.package[0]}" if file.package else "by hand")
    return f"{file.name}{size}{digits} ({place})"


def _state(name: str) -> str:
    record = store.record(store.folder_of(name))
    return f"{store.folder_of(name)}, {record['fetched']}" if record else "no"
