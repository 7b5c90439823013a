"""The libraries of experiment trackers, reduced to the calls that they get, which are noted."""

import types


class Run:
    """What a run of both libraries has.

    Attributes:
      options: with which it was started.
      logged: (step, metrics) of every call.
    """

    def __init__(self, options):
        self.options, self.logged, self.is_finished = options, [], False

    def log(self, metrics, step):
        self.logged.append((step, metrics))

    def define_metric(self, name, step_metric):
        self.axis = (name, step_metric)

    def finish(self):
        self.is_finished = True


def library(started):
    """A library that adds every run to the list `started`."""

    def init(**options):
        started.append(Run(options))
        return started[-1]

    return types.SimpleNamespace(init=init, Settings=lambda **options: options)
