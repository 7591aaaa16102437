"""What is made beside the maps while a GPU makes them: the IR labels of those that are finished."""

from misc.cli.options import Options
from misc.runtime.image_task import named
from misc.runtime.processes import SideProcesses
from misc.storage.outputs import State, output_state
from step.cam_to_ir_label import MakeIRLabel


class LabelsMeanwhile:
    """Leaves the IR labels of finished maps to processes that have nothing else to do.

    They are the files that `cam_to_ir_label` makes, which makes what is missing afterwards: nothing
    depends on how far this got, and the maps never wait for it. Must be picklable until the first
    `make`.
    """

    def __init__(self, args: Options, processes: int):
        self._task, self._processes = MakeIRLabel(args), processes
        self._side: SideProcesses | None = None

    def make(self, image_id: str) -> None:
        """Have the labels of an image made, whose maps are saved, if there is somebody to do it."""
        if self._side is None:
            self._side = SideProcesses(self._processes)
        self._side.offer(make_label, self._task, image_id)

    def close(self) -> None:
        """Wait for the labels that are under way."""
        if self._side:
            self._side.close()


def make_label(task: MakeIRLabel, image_id: str) -> None:
    """Labels of an image, in a process beside that of the maps; a foreign file stays as it is."""
    state = output_state(task.outputs(image_id)[0])
    if state in (State.MISSING, State.DAMAGED):
        with named(task, image_id):
            task.one(image_id)
