"""Cases that failed once, shrunk; they are tried before all others."""

from __future__ import annotations

from poller.core.model import Strategy
from tests.acceptance.hypo.script import Case, Change, Everything, Filter, Op, Reads, Round, Ways

MENDED: tuple[Case, ...] = (
    # A sweep of patients gave way to names, and who had gone in between was missed by neither.
    Case(
        Strategy.SWEEP,
        rounds=(Round(), Round(700, (Change(Op.ADMIT), Change(Op.DISCHARGE)), filter=Filter.REFUSED), Round(10)),
        patients=Strategy.WINDOW,
    ),
    # Each survey read a dotted id by its path, which failed, and so made the evidence of every absence void.
    Case(
        Strategy.EVERYTHING_WINDOW,
        Ways(
            resources=3,
            filter=Filter.IGNORED,
            conditions=True,
            several=False,
            reads=Reads.DOTLESS,
            latency=(9, 0, 9, 9, 9),
            in_flight=1,
        ),
        (
            Round(before=(Change(Op.DELETE, 2),)),
            Round(before=(Change(Op.ADMIT), Change(Op.VANISH, 1)), adopt=Strategy.EVERYTHING_WINDOW),
        ),
        patients=None,
    ),
    # The last patient went, the refused searches paused the feed, and nobody was left by whom it could be asked whether to go on.
    Case(
        Strategy.PATIENT,
        Ways(bare=False, gone_patient=400, empties=True),
        (Round(), Round(during=((22, Change(Op.DISCHARGE)),))),
    ),
    # One patient was left, and one who was gone: the rung was refused for both, and the refusal of one never sufficed to leave it.
    Case(
        Strategy.WINDOW,
        Ways(patients=2, resources=2, everything=Everything.OFF),
        (Round(), Round(before=(Change(Op.VANISH, 1), Change(Op.DELETE, 1)), adopt=Strategy.EVERYTHING)),
    ),
)
