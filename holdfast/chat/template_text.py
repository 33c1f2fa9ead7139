"""The findings of `holdfast template` as text for people."""

from __future__ import annotations

from typing import Any


def format_findings(findings: dict[str, Any]) -> str:
    """The findings for people: one per line; what a template or tokenizer wrote is shown quoted."""

    def format_tokens(entries: list[dict[str, Any]]) -> list[str]:
        return [
            entry["token"] if findings["level"] == "text" else f"{entry['token']} ({entry['id']})" for entry in entries
        ]

    bos, turn = findings["bos"], findings["system"]
    writer = "written by the template" if bos["template"] else "not written by the template"
    adds = "; the tokenizer would add one, Holdfast does not let it" if bos["tokenizer"] else ""
    lines = {
        "prefix": f"{findings['prefix']!r}",
        "suffix": f"{findings['suffix']!r}",
        "user's turn ends": ", ".join(
            [*map(repr, findings["user_stop_strings"]), *format_tokens(findings["user_stop"])]
        )
        or "nowhere",
        "assistant's turn ends": (
            f"{findings['assistant_end']!r}, written by {findings['assistant_end_written_by']}; "
            if findings["assistant_end"]
            else "nowhere; "
        )
        + f"generation stops at {', '.join(format_tokens(findings['assistant_stop'])) or 'nothing'}",
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
        }[findings["generation_prompt"]],
        "content": "a list of parts" if findings["content"] == "parts" else "plain text",
        "today's date": "in the prompt; Holdfast stops the clock at 2025-01-01"
        if findings["date"]
        else "not asked for",
    }
    if block := findings["thoughts"]:
        lines["thoughts"] = {
            "opened": "the prompt opens them",
            "closed": "the prompt closes them, so the model answers at once",
            "left to the model": "the model may begin them",
        }[block["prompt"]] + (
            f"; a finished turn without thoughts gets {block['answer_without']}; in history they are {block['history']}"
        )
    for switch in findings["switches"]:
        changes = ["another prefix"] * switch["prefix"]
        changes += [f"suffix {switch['suffix']!r}"] * (switch["suffix"] != findings["suffix"])
        lines[f"{switch['name']} = {str(switch['value']).lower()}"] = ", ".join(changes)
    width = max(map(len, lines))
    level = (
        "text level: no tokenizer beside it, control tokens are guessed by their shape"
        if findings["level"] == "text"
        else "tokens"
    )
    report = [
        f"{findings['source']}  ({level})",
        *(f"  {name:<{width}}  {value}" for name, value in lines.items()),
        "self-test",
    ]
    report += [
        f"  {'ok  ' if c['ok'] else 'FAIL'}  {c['name']}{': ' + c['detail'] if c['detail'] else ''}"
        for c in findings["checks"]
    ]
    return "\n".join(report)
