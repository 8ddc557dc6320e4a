"""``make notebooks``: writes the notebooks from the scripts beside them, without outputs, the same bytes each time."""

import hashlib
import sys
from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parents[1] / "experiments" / "notebooks"


def notebook(script: Path) -> str:
    """The content of the notebook that belongs to a percent script.

    Args:
        script: a ``.py`` file with ``# %%`` cells.
    """
    read = jupytext.read(script, fmt="py:percent")
    cells, seen = [], set()
    for cell in read.cells:
        name, count = hashlib.sha256(cell.source.encode()).hexdigest()[:8], 0
        while (identity := f"{name}-{count}" if count else name) in seen:
            count += 1
        seen.add(identity)
        kept = {"id": identity, "metadata": {key: cell.metadata[key] for key in ("tags",) if key in cell.metadata}}
        new = nbformat.v4.new_code_cell if cell.cell_type == "code" else nbformat.v4.new_markdown_cell
        cells.append(new(cell.source, **kept))
    metadata = {
        "jupytext": {"formats": "ipynb,py:percent"},
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return nbformat.writes(nbformat.v4.new_notebook(cells=cells, metadata=metadata), version=4) + "\n"


def main() -> int:
    """Write all of them."""
    for script in sorted(FOLDER.glob("*.py")):
        script.with_suffix(".ipynb").write_text(notebook(script), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
