"""Which stages a person asked for: one, up to one, from one on, and which ones anew."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quala.config import FlowConfig
from quala.errors import QualaError, unknown
from quala.workflow.flow import Node


@dataclass(frozen=True)
class Selection:
    """Names of the stages that take part, and of those that run although they are done."""

    chosen: frozenset[str]
    forced: frozenset[str]
    reason: str
    """Why the others do not take part."""


def select(nodes: Mapping[str, Node], flow: FlowConfig) -> Selection:
    """Resolve `flow.only`, `until`, `since` and `force` against the stages of a workflow."""
    for name in (flow.only, flow.until, flow.since, *flow.force):
        if name is not None and name not in nodes:
            raise unknown("stage", name, nodes)
    if flow.only and (flow.until or flow.since):
        raise QualaError("`flow.only` cannot stand beside `flow.until` or `flow.since`.")
    forced = {name for name, node in nodes.items() if node.config.force} | set(flow.force)
    if flow.only:
        chosen = {flow.only} | nodes[flow.only].upstream
        forced &= {flow.only}
        return Selection(frozenset(chosen), frozenset(forced), f"flow.only={flow.only}")
    taken = {name for node in nodes.values() for name in node.upstream}
    chosen = _upstream(nodes, set(nodes) - taken)
    if flow.until:
        chosen = _upstream(nodes, {flow.until})
    if flow.since:
        anew = _downstream(nodes, flow.since) & chosen
        if not anew:
            raise QualaError(
                f"`flow.until={flow.until}` does not hang on `flow.since={flow.since}`."
            )
        forced |= anew
        chosen = _upstream(nodes, anew)
    asked = {"until": flow.until, "since": flow.since}
    reason = " ".join(f"flow.{key}={name}" for key, name in asked.items() if name)
    reason = reason or "nothing needs it"
    return Selection(frozenset(chosen), frozenset(forced & chosen), reason)


def _upstream(nodes: Mapping[str, Node], names: set[str]) -> set[str]:
    found = set(names)
    for name in reversed(list(nodes)):
        if name in found:
            # What is given needs nothing above it.
            found |= nodes[name].upstream if nodes[name].given is None else set()
    return found


def _downstream(nodes: Mapping[str, Node], start: str) -> set[str]:
    found = {start}
    for name, node in nodes.items():
        if node.upstream & found:
            found.add(name)
    return found
