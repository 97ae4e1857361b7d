"""The widget in napari's Plugins menu: examines the selected image layer in the background."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from blastscope.runtime.errors import BlastscopeError, MissingLibrary, UsageError
from blastscope.runtime.frames.corrections import WORDS
from blastscope.runtime.frames.types import FrameReport
from blastscope.runtime.integrations.napari_layers import frame_of, scale_of, show_report
from blastscope.runtime.integrations.napari_review import (
    accept_calls,
    answer_cells,
    cells_layer,
    corrections_in,
    restore_answers,
    review_state,
    save_corrections,
)

if TYPE_CHECKING:
    from blastscope.runtime.session import Scope

try:
    from magicgui.widgets import CheckBox, ComboBox, Container, FileEdit, FloatSpinBox, Label, LineEdit, PushButton
except ModuleNotFoundError as error:
    raise MissingLibrary("magicgui", "napari") from error

NOTICE = "For research use. The networks know C-NMC's cells: calls on\nframes mean nothing until the site has validated them."


class ExamineWidget(Container[Any]):  # type: ignore[misc]  # its types are not followed, for mypy's sake
    """A choice of layer, scale and bundle, a button, and what came of it. The bundle is opened at the first press, and kept."""

    def __init__(self, napari_viewer: Any) -> None:
        self._viewer = napari_viewer
        self._scope: Scope | None = None
        self._opened: Path | None = None
        self.layer = ComboBox(label="frame", choices=self._images)
        self.pixel_um = FloatSpinBox(label="um per pixel", value=0, min=0, max=5, step=0.001, tooltip="0: from the red cells")
        self.bundle = FileEdit(label="bundle", mode="d", nullable=True, value=None, tooltip="empty: the one that is shipped")
        self.button = PushButton(text="Examine")
        self.told = Label(value="")
        answers = [*((words, answer) for answer, words in WORDS.items()), ("not reviewed", "")]
        self.accept = PushButton(text="Accept the calls on selected cells")
        tip = "'not reviewed' takes back what isn't saved yet"
        self.answer = ComboBox(label="selected cells are", choices=answers, tooltip=tip)
        self.say = PushButton(text="Say so")
        self.who = LineEdit(label="your name or initials", value="")
        self.whole = CheckBox(text="I looked at the whole frame", value=False)
        self.file = FileEdit(label="corrections", mode="w", filter="*.csv", value=Path("corrections.csv"))
        self.save = PushButton(text="Save corrections")
        self.load = PushButton(text="Go on with saved ones")
        examining = [self.layer, self.pixel_um, self.bundle, self.button, self.told]
        reviewing = [self.accept, self.answer, self.say, self.who, self.whole, self.file, self.save, self.load]
        super().__init__(widgets=[*examining, *reviewing, Label(value=NOTICE)])
        self.button.changed.connect(self.examine)
        self.accept.changed.connect(self.accept_selected)
        self.say.changed.connect(self.answer_selected)
        self.save.changed.connect(self.save_review)
        self.load.changed.connect(self.load_review)
        for change in (self._viewer.layers.events.inserted, self._viewer.layers.events.removed):
            change.connect(self.layer.reset_choices)

    def examine(self) -> Any:
        """Starts the examination in a thread, and returns its worker; None, with a message, if the layer can't be examined."""
        from napari.qt.threading import create_worker

        layer = self.layer.value
        try:
            if layer is None:
                raise BlastscopeError("there is no image: open a frame first")
            pixels, scales = frame_of(layer), (self.pixel_um.value or None, scale_of(layer))
        except BlastscopeError as error:
            return self._complain(error)
        self.button.enabled = False
        self.told.value = "examining ..."
        worker = create_worker(self._work, pixels, scales, self.bundle.value, _start_thread=False)
        worker.returned.connect(lambda report: self._show(layer, report))
        worker.errored.connect(self._complain)
        worker.finished.connect(lambda: setattr(self.button, "enabled", True))
        worker.start()
        return worker

    def accept_selected(self) -> None:
        """Notes that the calls on the selected cells are right."""
        try:
            shapes = self._cells()
            done = accept_calls(shapes, self._selected(shapes))
            without = f"; {done.without} have no call to accept: say what they are" if done.without else ""
            self.told.value = f"{done.calls} calls accepted{without}\n{review_state(shapes)}"
        except BlastscopeError as error:
            self._complain(error)

    def answer_selected(self) -> None:
        """Notes the answer for the cells that are selected in the layer of boxes."""
        try:
            shapes = self._cells()
            count = answer_cells(shapes, self._selected(shapes), self.answer.value)
            said = WORDS[self.answer.value] if self.answer.value else "not reviewed"
            self.told.value = f"{count} cells: {said}\n{review_state(shapes)}"
        except BlastscopeError as error:
            self._complain(error)

    def save_review(self) -> None:
        """Adds the answers on the frame to the file of corrections."""
        try:
            rows = corrections_in(self._cells(), self._path(), self.who.value, whole=self.whole.value)
            held = save_corrections(self.file.value, rows)
            self.told.value = f"{len(rows)} rows saved; '{self.file.value}' now holds {held}"
        except BlastscopeError as error:
            self._complain(error)

    def load_review(self) -> None:
        """Puts what the file of corrections says of this frame back into the layer of boxes."""
        try:
            shapes = self._cells()
            count = restore_answers(shapes, self._path(), self.file.value)
            self.told.value = f"{count} answers taken from '{self.file.value}'\n{review_state(shapes)}"
        except BlastscopeError as error:
            self._complain(error)

    def _path(self) -> str:
        """What corrections call the frame."""
        layer = self.layer.value
        return str(layer.source.path or layer.name)

    def _selected(self, shapes: Any) -> list[int]:
        if not shapes.selected_data:
            raise UsageError(f"no cell is selected: select some in the layer '{shapes.name}'")
        return sorted(shapes.selected_data)

    def _cells(self) -> Any:
        if self.layer.value is None:
            raise UsageError("there is no image: open a frame first")
        return cells_layer(self._viewer, self.layer.value)

    def _work(self, pixels: Any, scales: tuple[float | None, float | None], bundle: Path | None) -> FrameReport:
        """Runs in a thread of its own; only one does at a time, since the button is off meanwhile."""
        from blastscope.runtime.session import open_bundle

        if self._scope is None or bundle != self._opened:
            if self._scope:
                self._scope.close()
            self._scope = None
            self._scope, self._opened = open_bundle(bundle), bundle
        return self._scope.examine(pixels, pixel_um=scales[0], stated_um=scales[1])

    def _show(self, layer: Any, report: FrameReport) -> None:
        if report.refusal:
            self.told.value = f"refused: {report.refusal.detail}"
            return
        if layer in self._viewer.layers:  # it may have been closed meanwhile
            show_report(self._viewer, layer, report)
        counts = report.counts
        scale = f"{report.parameters.pixel_um:.4f} um per pixel, {report.parameters.scale_source}" if report.parameters else ""
        self.told.value = (
            f"{counts['cells']} white cells: {counts['all']} ALL, {counts['hem']} HEM, {counts['refused']} refused\n{scale}"
            + "".join(f"\n{note}" for note in report.notes)
        )

    def _complain(self, error: BaseException) -> None:
        from napari.utils.notifications import show_error

        self.told.value = str(error)
        show_error(f"blastscope: {error}")

    def _images(self, _: Any) -> list[Any]:
        return [layer for layer in self._viewer.layers if hasattr(layer, "rgb")]
