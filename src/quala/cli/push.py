"""`quala push`: upload an export to a model repository on the Hugging Face hub.

The token is that of `hf auth login` or of the variable HF_TOKEN.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from quala.cli.arguments import PLACE, Parser
from quala.cli.locate import add_model, locate_model
from quala.cli.output import show, warn, write_json
from quala.errors import QualaError


def main(argv: Sequence[str]) -> int:
    """Upload an export, or show what would be uploaded.

    Raises QualaError for a name that no repository can have, for what is no export or is damaged,
    and where the hub cannot be asked or refuses.
    """
    arguments = _parser().parse_args(argv)
    repository, private = _checked(arguments.repository), arguments.private
    folder = locate_model(arguments.model, arguments.tracking_uri)
    from quala.runtime.card import Card
    from quala.runtime.hub import NOT_STATED, files_of, upload

    card = Card.read(folder)
    files = files_of(folder)
    if card.licence == NOT_STATED:
        warn(
            "The license is not stated: `quala export MODEL --out DIR --license mit` makes a copy "
            "that states one."
        )
    page = None if arguments.dry_run else upload(folder, repository, files, private=private)
    told = {"repository": repository, "private": private, "license": card.licence}
    if arguments.json:
        write_json({**told, "files": files, "page": page})
        return 0
    show(*(f"{count:>12,}  {name}" for name, count in files.items()))
    what = f"{len(files)} files, {sum(files.values()) / 1e6:.1f} MB, license {card.licence}"
    if page is None:
        show(f"Not uploaded: {what}, to {repository}{', private' * private}.")
    else:
        show(f"Uploaded to {page}: {what}. MODEL may be {repository} from now on.")
    return 0


def _checked(name: str) -> str:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise QualaError(
            "REPO must be OWNER/NAME on the hub, each of letters, digits and - _ . and of at most "
            f"96 characters, got `{name}`."
        ) from error
    return name


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="quala push", description=__doc__)
    add_model(parser)
    parser.add_argument("repository", type=PLACE, metavar="REPO", help="OWNER/NAME on the hub")
    parser.add_argument("--private", action="store_true", help="make a private repository")
    parser.add_argument(
        "--dry-run", action="store_true", help="list the files, without network or token"
    )
    parser.add_argument("--json", action="store_true", help="write JSON")
    return parser
