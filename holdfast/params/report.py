"""The section `report`: what is shown."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field

from holdfast.params.base import Section


class Report(Section):
    section: ClassVar[str] = "report"

    title: str = "Holdfast report"
    """Title of the report."""
    lost_items: Annotated[int, Field(ge=0)] = 5
    """Lost items shown per arm in the Markdown report; of the control two, at most."""
    page_items: Annotated[int, Field(ge=0)] = 2000
    """Items in the HTML page's table, lost and gained first."""
