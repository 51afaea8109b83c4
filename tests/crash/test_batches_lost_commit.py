"""The cable is cut while a batch's COMMIT is on its way: nobody guesses, and `resume` goes on behind what is committed."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from backout.errors import Interrupted, OutcomeUnknown, Refused
from crash.test_lost_commit import project_through, proxy_for, yes
from proxy import Cut
from servers import PostgresDatabase

CHANGE = """-- /// change
-- title = "Count"
-- ///
-- @batch counted by=id size=3
UPDATE counted SET times = times + 1;
"""


@pytest.mark.parametrize("cut", get_args(Cut))
def test_a_batch_whose_commit_was_lost_is_done_once(postgres18: PostgresDatabase, tmp_path: Path, cut: Cut) -> None:
    postgres18.as_application("CREATE TABLE counted (id int PRIMARY KEY, times int)")
    postgres18.as_application("INSERT INTO counted SELECT g, 0 FROM generate_series(1, 10) g")
    committed = cut == "before the client has the answer"
    with proxy_for(postgres18, cut) as proxy:
        project = project_through(proxy, postgres18, tmp_path)
        (tmp_path / "changes").mkdir()
        (tmp_path / "changes" / "count.sql").write_text(CHANGE)
        project.init_journal("far")
        with pytest.raises(OutcomeUnknown) as caught:
            project.run(project.change("count"), "far", ask=yes)
        assert proxy.has_cut.is_set()
        assert caught.value.exit_status == 11
        assert (
            caught.value.hint == "backout resume far-1 asks the journal, and goes on behind the last batch that it has"
        )
        project.log("far")
        if committed:
            project.resume("far-1", ask=yes)
        else:  # the first batch never arrived: there is nothing to go on behind
            with pytest.raises((Refused, Interrupted)):
                project.resume("far-1", ask=yes)
            project.run(project.change("count"), "far", ask=yes)
        assert postgres18.execute("SELECT times, count(*) FROM counted GROUP BY 1") == [(1, 10)]
        project.undo(project.log("far")[0].identifier, "far", ask=yes)
        assert postgres18.execute("SELECT times, count(*) FROM counted GROUP BY 1") == [(0, 10)]
