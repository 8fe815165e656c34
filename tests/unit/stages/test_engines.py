"""What the search chooses from."""

from hasten.stages.engines import Engine, keep
from hasten.technique.layout import Layout
from hasten.technique.plan import Plan
from hasten.technique.runtime import Runtime
from hasten.technique.swap import Swap


def test_the_fastest_engines_of_each_network_and_the_closest_are_kept() -> None:
    student = Swap("student", weights="0123")
    tried = [
        Engine(Plan(), "", 1.0, None),
        Engine(Plan((Layout(),)), "", 0.9, 150.0),
        Engine(Plan((Runtime(),)), "", 0.5, 30.0),
        Engine(Plan((Runtime(streams=2),)), "", 0.4, 30.0),
        Engine(Plan((student,)), "", 0.45, 10.0),
        Engine(Plan((student, Layout())), "", 0.35, 10.0),
        Engine(Plan((student, Runtime())), "", 0.2, 10.0),
        Engine(Plan((student, Runtime(streams=2))), "", None, None, failure="no"),
    ]
    assert keep(tried) == [tried[6], tried[5], tried[3], tried[2], tried[1]]
