"""A run as one repository of the Hugging Face hub: ticket, compiled model, ONNX files, a card of their worth.

The ticket lies at the root, where `from_pretrained` looks; the other artefacts keep their folders.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlcompress.artefacts import unseal
from vlcompress.errors import VlcompressError
from vlcompress.report.table import Table, markdown
from vlcompress.report.text import bench_table, machine_text
from vlcompress.results import BenchResult, RunResult, load
from vlcompress.tickets.run import DOCUMENT, Run

CARD, RECIPE, BENCH = "README.md", "recipe.toml", "bench.json"
ARTEFACTS = {
    "ticket": "ticket.json", "compiled": "plan.json", "onnx": "manifest.json", "onnx-fp16": "manifest.json",
    "onnx-int8": "manifest.json",
}  # fmt: skip
"""Folders of a run that are published, and the document that seals each."""


@dataclass(frozen=True)
class Upload:
    """A file to be: its path in the repository, and its content as bytes or as a file."""

    path: str
    content: bytes | Path

    @property
    def size(self) -> int:
        """Bytes."""
        return self.content.stat().st_size if isinstance(self.content, Path) else len(self.content)


def uploads_of(run: Run, say: Callable[[str], None] = print) -> list[Upload]:
    """List what a run's repository holds, every artefact checked against its hashes.

    Args:
        run: finished and benchmarked.
        say: told what is not there, and which of this machine's paths are published.

    Raises:
        VlcompressError: not finished, no bench.json, or a damaged file.
    """
    result, bench = _measured(run)
    recipe = run.recipe()
    files: list[Upload] = []
    for folder, document in ARTEFACTS.items():
        if not (run.folder / folder).is_dir():
            if folder in ("compiled", "onnx"):
                say(f"no {folder}/ in this run: it is left out")
            continue
        unseal(run.folder / folder, document)
        files += _files(run.folder / folder, "" if folder == "ticket" else f"{folder}/")
    for name, value in {**recipe.tables()["model"], **recipe.tables()["data"]}.items():
        if isinstance(value, str) and os.path.isabs(value):
            say(f"warning: the recipe's {name} '{value}' is a path of this machine, and is published as it stands")
    documents = [Upload(name, run.folder / name) for name in (DOCUMENT, BENCH)]
    text = _toml(recipe.tables())
    card = card_of(result, bench, text, (run.ticket / CARD).read_text(encoding="utf-8"))
    return [Upload(CARD, card.encode()), Upload(RECIPE, text.encode()), *documents, *files]


def card_of(result: RunResult, bench: BenchResult, recipe: str, ticket: str) -> str:
    """Write the repository's README: the ticket's own card, then what it is worth, where, and how to make it again.

    Args:
        result: of the run.
        bench: what was measured of it.
        recipe: as TOML.
        ticket: the ticket's card, with verdict and seeds.
    """
    table = bench_table(bench)
    speed = markdown(Table("", table.header, table.rows))
    measured = f" It was measured by `{bench.command}`." if bench.command else ""
    versions = ", ".join(f"{name} {version}" for name, version in (result.versions or {}).items())
    return f"""---
library_name: vlcompress
tags: [lottery-ticket, pruning, sparse, {result.recipe["model"]["family"]}, {result.recipe["data"]["task"]}]
---
{ticket.rstrip()}

## Speed

On {"; ".join(machine_text(bench))}.{measured}

{speed}

Ratios have 95 % intervals over rounds. Other machines have other speeds: `vlcompress bench` measures yours.

## Make it again

`vlcompress prune recipe.toml`{f" ({versions})" if versions else ""}, then `vlcompress compile`, `export` and `bench`:

```toml
{recipe.rstrip()}
```
"""


def push(run: Run, repo: str, *, private: bool = False, say: Callable[[str], None] = print) -> str:
    """Publish a run in one commit, all of it or nothing, and give the commit's address.

    Args:
        run: finished and benchmarked.
        repo: owner/name; made if it is not there.
        private: make it for its owner alone.
        say: told what goes on.

    Raises:
        VlcompressError: see `uploads_of`; a name that is none, no token, no network, or a hub that refuses.
    """
    check_name(repo)
    uploads = uploads_of(run, say)
    with _told(repo):
        from huggingface_hub import CommitOperationAdd, HfApi, get_token

        if get_token() is None:
            raise VlcompressError("no token for the hub: run `hf auth login`, or set HF_TOKEN to one that may write")
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        api.create_repo(repo, private=private, exist_ok=True)
        say(f"sending {len(uploads)} files, {sum(one.size for one in uploads) / 1e6:.1f} MB, to {repo}")
        operations = [
            CommitOperationAdd(one.path, str(one.content) if isinstance(one.content, Path) else one.content)
            for one in uploads
        ]
        done: Any = api.create_commit(repo, operations, commit_message="Publish a ticket")
    return str(done.commit_url)


def check_name(repo: str) -> None:
    """Refuse what is no name of a repository.

    Raises:
        VlcompressError: see above.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise VlcompressError(f"'{repo}' names no repository: give OWNER/NAME, of letters, digits, - _ .") from error


@contextmanager
def _told(repo: str) -> Iterator[None]:
    """Turn whatever the hub's client raises inside the block into one line; its HTTP library is not always the same."""
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except VlcompressError:
        raise
    except HfHubHTTPError as error:
        said = error.server_message or str(error).splitlines()[0]
        raise VlcompressError(f"the hub refused '{repo}': {said}; check name and rights of the token") from error
    except Exception as error:
        said = (str(error.__cause__ or error) or type(error).__name__).splitlines()[0]
        raise VlcompressError(f"the hub was not reached ({said}): nothing was published; check the network") from error


def _measured(run: Run) -> tuple[RunResult, BenchResult]:
    if not run.is_finished:
        raise VlcompressError(f"'{run.folder}' holds no finished run: give a run's folder, where run.json is")
    path = run.folder / BENCH
    if not path.is_file():
        raise VlcompressError(
            f"run '{run.folder}' has no {BENCH}, and no ticket is published without its measured effect: run "
            "`vlcompress bench` first"
        )
    return run.result(), load(BenchResult, path)


def _files(folder: Path, under: str) -> Iterator[Upload]:
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and (under or name != CARD):
            yield Upload(f"{under}{name}", path)


def _toml(tables: dict[str, Any]) -> str:
    import tomli_w

    return tomli_w.dumps(tables)
