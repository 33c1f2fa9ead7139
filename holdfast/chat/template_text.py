"""The findings of `holdfast template` as text for people."""

from __future__ import annotations

from typing import Any


def format_findings(found: dict[str, Any]) -> str:
    """The findings for people: one per line; what a template or tokenizer wrote is shown quoted."""

    def tokens(entries: list[dict[str, Any]]) -> list[str]:
        return [
            entry["token"] if found["level"] == "text" else f"{entry['token']} ({entry['id']})" for entry in entries
        ]

    bos, turn = found["bos"], found["system"]
    writer = "written by the template" if bos["template"] else "not written by the template"
    adds = "; the tokenizer would add one, Holdfast does not let it" if bos["tokenizer"] else ""
    lines = {
        "prefix": f"{found['prefix']!r}",
        "suffix": f"{found['suffix']!r}",
        "user's turn ends": ", ".join([*map(repr, found["user_stop_strings"]), *tokens(found["user_stop"])])
        or "nowhere",
        "assistant's turn ends": f"{found['assistant_end']!r}, written by {found['assistant_end_written_by']}; "
        f"generation stops at {', '.join(tokens(found['assistant_stop'])) or 'nothing'}",
        "BOS": "none" if bos["token"] is None else f"{bos['token']} {writer}{adds}",
        "system turn": ("shown" if turn["role"] == "shown" else "not known: its text goes before the first user's text")
        + (
            "; one is built in" + (", and stays beside yours" if turn["kept"] else "; yours takes its place")
            if turn["built_in"]
            else ""
        ),
        "built-in system turn": repr(turn["text"]) if turn["built_in"] else "none",
        "generation prompt": {
            "asked": "written when asked for",
            "always": "part of the user's turn, or always written",
            "never": "never written by the template; derived from a conversation",
        }[found["generation_prompt"]],
        "content": "a list of parts" if found["content"] == "parts" else "plain text",
        "today's date": "in the prompt; Holdfast stops the clock at 2025-01-01" if found["date"] else "not asked for",
    }
    if block := found["thoughts"]:
        lines["thoughts"] = {
            "opened": "the prompt opens them",
            "closed": "the prompt closes them, so the model answers at once",
            "left to the model": "the model may begin them",
        }[block["prompt"]] + (
            f"; a finished turn without thoughts gets {block['answer_without']}; in history they are {block['history']}"
        )
    for switch in found["switches"]:
        changes = ["another prefix"] * switch["prefix"]
        changes += [f"suffix {switch['suffix']!r}"] * (switch["suffix"] != found["suffix"])
        lines[f"{switch['name']} = {str(switch['value']).lower()}"] = ", ".join(changes)
    width = max(map(len, lines))
    level = (
        "text level: no tokenizer beside it, control tokens are guessed by their shape"
        if found["level"] == "text"
        else "tokens"
    )
    report = [
        f"{found['source']}  ({level})",
        *(f"  {name:<{width}}  {value}" for name, value in lines.items()),
        "self-test",
    ]
    report += [
        f"  {'ok  ' if c['ok'] else 'FAIL'}  {c['name']}{': ' + c['detail'] if c['detail'] else ''}"
        for c in found["checks"]
    ]
    return "\n".join(report)
