"""deck.gl, the map library of a page, as the package pydeck carries it."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from geosod.errors import ConfigError

#: Licence of what is put into every page.
LICENCE = "deck.gl, copyright vis.gl contributors, MIT and Apache-2.0 licences; includes the works named in NOTICE"


def deck_gl() -> str:
    """The source of deck.gl as one script, which defines `createDeck`.

    Raises:
        ConfigError: pydeck is not installed, or lacks the script.
    """
    # Importing pydeck would look for notebooks; only its file is needed.
    found = find_spec("pydeck")
    if found is None or found.origin is None:
        raise ConfigError('the map is drawn by deck.gl of pydeck; pip install "geosod[view]"')
    path = Path(found.origin).parent / "nbextension" / "static" / "index.js"
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        version = metadata.version("pydeck")
        raise ConfigError(f"pydeck {version} has no deck.gl at {path}; pip install 'pydeck>=0.9.1'") from error
    # The name of a file that is not there, which browsers would ask for.
    return text.replace("//# sourceMappingURL=index.js.map", "")
