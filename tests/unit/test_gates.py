"""Each gate: satisfied, each way of failing, and each attempt to get round it, as values. Real keys are elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from backout.errors import Busy, Refused
from backout.gates import approvals, reveal
from backout.gates.certificate import GHOST_UNDO, SESSION, Certificate, Shape
from backout.gates.checklist import checklist
from backout.gates.distinct import KeyOwner
from backout.gates.evidence import Evidence, Ignored, PastRun, Said, Verdict
from backout.gates.people import People, Person
from backout.gates.policy import PROFILES, SSH, AnnouncePolicy, Policy, Window
from backout.gates.verdicts import GATES, GATES_OF_UNDO, judge_all, require_all
from backout.ledger.statement import Kind, Statement

NOW = datetime(2026, 11, 20, 10, 0, tzinfo=UTC)  # a Friday
DIGEST, OTHER = "ab" * 32, "cd" * 32
PEOPLE = People(
    {
        name: Person(name, tuple(emails), frozenset(roles))
        for name, emails, roles in (
            ("ann", ["ann@example.org"], ["developer"]),
            ("bob", ["bob@example.org", "bob@home.example"], ["team-lead"]),
            ("cem", ["cem@example.org"], ["platform"]),
            ("dan", ["dan@example.org"], ["product-owner"]),
            ("eve", ["eve@example.org"], ["developer"]),
        )
    }
)
POLICY = replace(
    PROFILES["hipaa"],
    roles={"correctness": ("team-lead",), "safety": ("platform",)},
    operators=("platform",),
    overrule=("team-lead",),
    emergency=("eve",),
    window=(Window(frozenset(range(5)), time(9), time(17), ZoneInfo("UTC"), "Mon-Fri 09:00-17:00"),),
    hosts=("db.example.org",),
    subset=True,
)


def said(
    kind: Kind, person: str, *, hours_ago: float = 30, digest: str = DIGEST, environment: str = "production",
    key: str | None = "", **details: Any,
) -> Said:  # fmt: skip
    at = NOW - timedelta(hours=hours_ago)
    statement = Statement(kind, "close", digest, environment, f"{person}@example.org", at, details)
    return Said(statement, person, f"SHA256:{person}" if key == "" else key)


def approval(person: str, kind: str, **more: Any) -> Said:
    details = {"approval": kind, "parameters": "", "checklist": list(checklist(kind))}
    return said(Kind.APPROVE, person, **{**details, **more})


def announcement(hours_ago: float, **more: Any) -> Said:
    at = (NOW - timedelta(hours=hours_ago)).isoformat()
    return said(Kind.ANNOUNCE, "cem", **{"hours_ago": hours_ago, "to": [], "database_at": at, **more})


def certificate(person: str, **more: Any) -> Certificate:
    made = Certificate(
        "close", DIGEST, "staging", person, "staging-4", NOW - timedelta(days=2), "PostgreSQL", "18.1",
        {"public.referral": (0, 2, 0)}, {"public.referral": Shape({"id": "bigint", "status": "text"}, ("id",))},
    )  # fmt: skip
    return replace(made, **more)


def attested(person: str, run: str, **more: Any) -> Said:
    return said(
        Kind.ATTEST, person, **{"environment": "staging", "run": run, "saw": "the list shows them closed", **more}
    )


SEEN = tuple(attested(person, run) for run in ("staging-4", "staging-8") for person in ("dan", "eve"))
CORRECT, SAFE = approval("bob", "correctness"), approval("cem", "safety")
SUBMITTED = said(Kind.SUBMIT, "ann", environment="", hours_ago=40)
CONSENT, ANNOUNCED = said(Kind.CONSENT, "dan"), announcement(25)
OBJECTION = said(Kind.OBJECT, "eve", why="month end is running")
EVIDENCE = Evidence(
    change="close",
    digest=DIGEST,
    environment="production",
    documents={
        "risk": "A referral that was reopened by hand could be closed again.",
        "mitigation": "A ghost run on staging, then fifty rows first.",
        "backout": "generated",
        "request": "https://tracker.internal/4711",
        "requested_by": "dan@example.org",
        "date": date(2026, 11, 18),
        "author": "ann@example.org",
        "links": (),
    },
    title="Close the referrals that the outage left open",
    authors=frozenset({"ann"}),
    operator=PEOPLE.known["cem"],
    operator_name="cem",
    operator_key="SHA256:cem",
    people=PEOPLE,
    said=(SUBMITTED, CORRECT, SAFE, CONSENT, ANNOUNCED, *SEEN),
    certificates=(certificate("bob"), certificate("eve", run="staging-8")),
    shapes={"public.referral": Shape({"id": "bigint", "status": "text"}, ("id",))},
    product="PostgreSQL",
    version="18.3",
    hosts=("db.example.org",),
    has_subset=True,
    subset_runs=("production-5",),
)


def without(*kinds: Kind, add: tuple[Said, ...] = ()) -> Evidence:
    return replace(EVIDENCE, said=(*(one for one in EVIDENCE.said if one.kind not in kinds), *add))


def seen(*attestations: Said) -> Evidence:
    return without(Kind.ATTEST, add=attestations)


def documents(**values: Any) -> Evidence:
    return replace(EVIDENCE, documents={**EVIDENCE.documents, **values})


def failed_run(error: str, *, mode: str = "real", digest: str = DIGEST, hours_ago: float = 1) -> Evidence:
    run = PastRun("production-7", digest, mode, "rolled back", "cem", error, NOW - timedelta(hours=hours_ago))
    return replace(EVIDENCE, runs=(run,))


def refused(evidence: Evidence, policy: Policy = POLICY, now: datetime = NOW) -> list[tuple[str, str]]:
    return [(one.gate, one.text) for one in judge_all(evidence, policy, now) if not one.satisfied]


def test_a_change_with_all_that_the_policy_asks_for_passes_every_gate() -> None:
    assert refused(EVIDENCE) == []
    assert len(require_all(EVIDENCE, POLICY, NOW)) == len(GATES)


def test_the_policy_of_one_person_asks_for_nothing() -> None:
    stranger = Evidence("close", DIGEST, "dev", people=PEOPLE, operator_name="root")
    assert refused(stranger, PROFILES["solo"]) == []


APPROVALS = without(Kind.APPROVE)
FAILURES: list[tuple[str, Evidence, str, str]] = [
    # -- documents
    ("an empty risk", documents(risk=""), "documents", '"risk" is empty'),
    ("a missing risk", documents(risk=None), "documents", '"risk" is empty'),
    ("only space", documents(risk=" \t "), "documents", '"risk" is empty'),
    ("boilerplate", documents(risk="N/A"), "documents", '"risk" says nothing: "N/A"'),
    ("boilerplate with a dot", documents(mitigation="none."), "documents", '"mitigation" says nothing: "none."'),
    ("a promise", documents(risk="will be added later"), "documents", '"risk" says nothing: "will be added later"'),
    ("one word repeated", documents(risk="risk risk risk"), "documents", '"risk" says too little: "risk risk risk"'),
    (
        "the title again", documents(risk="Close the  referrals that the outage left OPEN"), "documents",
        '"risk" repeats another text of the change',
    ),
    (
        "one text for both", documents(mitigation=EVIDENCE.documents["risk"]), "documents",
        '"risk" repeats another text of the change; "mitigation" repeats another text of the change',
    ),
    ("no request", documents(request=""), "documents", '"request" is empty'),
    (
        "the template's example", documents(request="https://tracker.example.org/1"), "documents",
        '"request" says nothing: "https://tracker.example.org/1"',
    ),
    ("no date", documents(date=None), "documents", '"date" is missing'),
    ("a date to come", documents(date=date(2026, 12, 24)), "documents", '"date" is in the future'),
    # -- whose text it is
    ("it was never submitted", without(Kind.SUBMIT), "author", '"close" was not submitted as it is now'),
    (
        "the file is a link", replace(EVIDENCE, is_link=True), "author",
        'the file of "close" is reached through a symbolic link',
    ),
    # -- approvals
    ("nobody approved", APPROVALS, "approvals", '"correctness" is not approved; "safety" is not approved'),
    (
        "the author approves", without(Kind.APPROVE, add=(CORRECT, approval("ann", "safety"))), "approvals",
        '"safety" is not approved: ann wrote or edited it',
    ),
    (
        "the last editor approves", replace(EVIDENCE, authors=frozenset({"ann", "bob"})), "approvals",
        '"correctness" is not approved: bob wrote or edited it',
    ),
    (
        "somebody without the role", without(Kind.APPROVE, add=(CORRECT, approval("eve", "safety"))), "approvals",
        '"safety" is not approved: eve is not platform',
    ),
    (
        "the author approves under another's name", without(
            Kind.APPROVE, add=(CORRECT, approval("cem", "safety", key="SHA256:ann"))
        ), "approvals",
        '"safety" is not approved: cem wrote or edited it',
    ),
    (
        "somebody unknown", without(Kind.APPROVE, add=(CORRECT, approval("mallory", "safety"))), "approvals",
        '"safety" is not approved: mallory is nobody in [people]',
    ),
    (
        "an unticked question", without(Kind.APPROVE, add=(CORRECT, approval("cem", "safety", checklist=[]))),
        "approvals", '"safety" is not approved: cem left questions of the checklist unanswered',
    ),
    (
        "other values of parameters", without(Kind.APPROVE, add=(CORRECT, approval("cem", "safety", parameters="x"))),
        "approvals", '"safety" is not approved: cem approved other values of its parameters',
    ),
    (
        "an approval of another environment",
        without(Kind.APPROVE, add=(CORRECT, approval("cem", "safety", environment="staging"))), "approvals",
        '"safety" is not approved',
    ),
    (
        "a signature that is none",
        replace(
            without(Kind.APPROVE, add=(CORRECT,)), ignored=(Ignored("approve", "cem", "its signature is not of these words"),)
        ),
        "approvals",
        '"safety" is not approved: an approval by cem does not count: its signature is not of these words',
    ),
    (
        "a rejection stands", without(add=(said(Kind.REJECT, "eve", why="it closes paid ones"),)), "approvals",
        "rejected by eve: it closes paid ones",
    ),
    (
        "who approved rejects", without(add=(said(Kind.REJECT, "cem", why="I was wrong", hours_ago=1),)), "approvals",
        "rejected by cem: I was wrong",
    ),
    # -- consent
    ("no consent", without(Kind.CONSENT), "consent", "dan, who asked for it, has not consented"),
    (
        "another's consent", without(Kind.CONSENT, add=(said(Kind.CONSENT, "bob"),)), "consent",
        "dan, who asked for it, has not consented",
    ),
    (
        "who asked for it wrote it", replace(EVIDENCE, authors=frozenset({"ann", "dan"})), "consent",
        "dan asked for it and wrote it: nobody consents to their own text",
    ),
    # -- the ladder
    ("no rehearsal", replace(EVIDENCE, certificates=()), "ladder", "it was not rehearsed on staging"),
    (
        "a rehearsal of another digest",
        replace(EVIDENCE, certificates=(certificate("bob", digest=OTHER), certificate("eve", digest=OTHER))), "ladder",
        "it was not rehearsed on staging",
    ),
    (
        "a rehearsal elsewhere", replace(EVIDENCE, certificates=(certificate("bob", environment="dev"),)), "ladder",
        "it was not rehearsed on staging",
    ),
    (
        "one person twice", replace(EVIDENCE, certificates=(certificate("bob"), certificate("bob", run="staging-9"))),
        "ladder", "rehearsed on staging by bob only, and the policy asks for 2 people",
    ),
    (
        "authors only", replace(
            EVIDENCE, authors=frozenset({"ann", "eve"}), certificates=(certificate("ann"), certificate("eve"))
        ), "ladder",
        "rehearsed on staging by its authors only",
    ),
    (
        "two names with one key rehearsed", replace(
            EVIDENCE, certificates=(
                certificate("bob", key="SHA256:bob"), certificate("eve", key="SHA256:bob", run="staging-8")
            )
        ), "ladder",
        "rehearsed on staging by bob only, and the policy asks for 2 people",
    ),
    (
        "authors only, one under another's name", replace(
            EVIDENCE, authors=frozenset({"ann", "eve"}), certificates=(
                certificate("eve", key="SHA256:eve"), certificate("bob", key="SHA256:ann", run="staging-8")
            )
        ), "ladder",
        "rehearsed on staging by its authors only",
    ),
    (
        "a stranger rehearsed", replace(EVIDENCE, certificates=(certificate("bob"), certificate("mallory"))), "ladder",
        "rehearsed on staging by bob only, and the policy asks for 2 people",
    ),
    (
        "no rows", replace(EVIDENCE, certificates=(certificate("bob", rows={"public.referral": (0, 0, 0)}),)), "ladder",
        "it was not rehearsed on staging: a rehearsal over no rows is none",
    ),
    (
        "a ghost is no rehearsal", replace(EVIDENCE, certificates=(certificate("bob", way=GHOST_UNDO),)), "ladder",
        "it was not rehearsed on staging",
    ),
    # -- what people saw where it was rehearsed
    (
        "nobody looked", without(Kind.ATTEST), "ladder", "rehearsal staging-4 is unvalidated (0 of 2 have attested)",
    ),
    (
        "one of two looked", seen(attested("dan", "staging-4"), *SEEN[2:]), "ladder",
        "rehearsal staging-4 is unvalidated (1 of 2 have attested)",
    ),
    (
        "one looked twice, with two keys",
        seen(attested("dan", "staging-4", key="SHA256:a"), attested("dan", "staging-4", key="SHA256:b"), *SEEN[2:]),
        "ladder", "rehearsal staging-4 is unvalidated (1 of 2 have attested)",
    ),
    (
        "two names with one key",
        seen(attested("dan", "staging-4", key="SHA256:a"), attested("eve", "staging-4", key="SHA256:a"), *SEEN[2:]),
        "ladder", "rehearsal staging-4 is unvalidated (1 of 2 have attested)",
    ),
    (
        "a stranger looked", seen(SEEN[0], attested("mallory", "staging-4"), *SEEN[2:]), "ladder",
        "rehearsal staging-4 is unvalidated (1 of 2 have attested)",
    ),
    (
        "looked at another run", seen(SEEN[0], attested("eve", "staging-5"), *SEEN[2:]), "ladder",
        "rehearsal staging-4 is unvalidated (1 of 2 have attested)",
    ),
    (
        "looked at another environment", seen(SEEN[0], attested("eve", "staging-4", environment="dev"), *SEEN[2:]),
        "ladder", "rehearsal staging-4 is unvalidated (1 of 2 have attested)",
    ),
    (
        "looked at another text", seen(SEEN[0], attested("eve", "staging-4", digest=OTHER), *SEEN[2:]), "ladder",
        "rehearsal staging-4 is unvalidated (1 of 2 have attested)",
    ),
    (
        "looked before it ran", seen(SEEN[0], attested("eve", "staging-4", hours_ago=49), *SEEN[2:]), "ladder",
        "rehearsal staging-4 is unvalidated (1 of 2 have attested)",
    ),
    (
        "saw nothing", seen(SEEN[0], attested("eve", "staging-4", saw=" "), *SEEN[2:]), "ladder",
        "rehearsal staging-4 is unvalidated (1 of 2 have attested)",
    ),
    (
        "only the second rehearsal was looked at", seen(*SEEN[:2]), "ladder",
        "rehearsal staging-8 is unvalidated (0 of 2 have attested)",
    ),
    (
        "another product", replace(EVIDENCE, product="SQLite"), "ladder",
        "rehearsed on PostgreSQL, and production is SQLite",
    ),
    (
        "another major version", replace(EVIDENCE, version="16.2"), "ladder",
        "rehearsed on PostgreSQL 18, and production is PostgreSQL 16",
    ),
    (
        "another column", replace(EVIDENCE, shapes={"public.referral": Shape({"id": "bigint", "status": "state"}, ("id",))}),
        "ladder",
        'the tables of production differ from those of staging: public.referral: column "status" is state here, and was text',
    ),
    # -- announcement and objections
    ("nobody was told", without(Kind.ANNOUNCE), "announcement", "it was not announced"),
    (
        "a stranger's receipt", without(Kind.ANNOUNCE, add=(said(
            Kind.ANNOUNCE, "mallory", to=[], database_at=(NOW - timedelta(hours=30)).isoformat()),)), "announcement",
        "it was not announced",
    ),
    (
        "told too late", without(Kind.ANNOUNCE, add=(announcement(23),)), "announcement",
        "announced at 2026-11-19 11:00+00:00, and the policy gives people 24 hours to object",
    ),
    (
        "an approval from before the text was there", without(Kind.APPROVE, add=(
            CORRECT, approval("cem", "safety", hours_ago=41))), "approvals",
        '"safety" is not approved: cem approved before the text was submitted',
    ),
    (
        "a consent from before the text was there", without(Kind.CONSENT, add=(said(Kind.CONSENT, "dan", hours_ago=41),)),
        "consent", "dan, who asked for it, has not consented",
    ),
    (
        "a receipt from before the text was there", without(Kind.SUBMIT, Kind.APPROVE, Kind.CONSENT, add=(
            approval("bob", "correctness", hours_ago=1), approval("cem", "safety", hours_ago=1),
            said(Kind.CONSENT, "dan", hours_ago=1),
            said(Kind.SUBMIT, "ann", environment="", hours_ago=2), announcement(30, database_at="2026-01-01T00:00:00+00:00"),
        )),
        "announcement", "announced at 2026-11-20 08:00+00:00, and the policy gives people 24 hours to object",
    ),
    (
        "a receipt without a time", without(Kind.ANNOUNCE, add=(announcement(30, database_at="soon"),)), "announcement",
        "it was not announced",
    ),
    ("an objection", without(add=(OBJECTION,)), "objections", "eve objects: month end is running"),
    (
        "withdrawn by another", without(add=(OBJECTION, said(
            Kind.WITHDRAW, "cem", statement=OBJECTION.statement.identifier))), "objections",
        "eve objects: month end is running",
    ),
    (
        "overruled by whom nobody named", without(add=(OBJECTION, said(
            Kind.OVERRULE, "cem", statement=OBJECTION.statement.identifier))), "objections",
        "eve objects: month end is running",
    ),
    (
        "overruled before it was made", without(add=(OBJECTION, said(
            Kind.OVERRULE, "bob", hours_ago=31, statement=OBJECTION.statement.identifier))), "objections",
        "eve objects: month end is running",
    ),
    # -- a subset first
    (
        "no part of it was run first", replace(EVIDENCE, subset_runs=()), "subset",
        "no subset of it was run on production first, and stands there now",
    ),
    # -- operator, host, claim
    (
        "an operator who did not sign", replace(EVIDENCE, operator_key=None), "operator",
        "it is not known for certain who runs this: cem has not signed",
    ),
    (
        "the author operates", replace(EVIDENCE, operator=PEOPLE.known["ann"], operator_name="ann"), "operator",
        "ann may not run anything on production",
    ),
    (
        "a stranger operates", replace(EVIDENCE, operator=None, operator_name="mallory"), "operator",
        '"mallory" is nobody in [people]',
    ),
    (
        "another host", replace(EVIDENCE, hosts=("localhost",)), "host",
        'the URL has host "localhost", which is not in `hosts`',
    ),
    ("no host at all", replace(EVIDENCE, hosts=()), "host", 'the URL has host "none", which is not in `hosts`'),
    (
        "one of several hosts is another", replace(EVIDENCE, hosts=("DB.example.org", "db2.example.org")), "host",
        'the URL has host "db2.example.org", which is not in `hosts`',
    ),
    (
        "claimed by another", replace(EVIDENCE, claims=(said(Kind.CLAIM, "bob", hours_ago=1),)), "claim",
        "bob is on it since 2026-11-20 09:00+00:00",
    ),
    # -- the ledger, and emergencies of the past
    (
        "a ledger that was altered", replace(EVIDENCE, tampered="entry 3: altered"), "ledger",
        "the ledger is not as it was written: entry 3: altered",
    ),
    (
        "an emergency nobody reviewed",
        replace(EVIDENCE, runs=(PastRun("production-9", OTHER, "real", "committed", "eve", emergency="fire at night"),)),
        "review", "emergency run production-9 owes a review by 2 people",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("evidence", "gate", "text"), [case[1:] for case in FAILURES], ids=[case[0] for case in FAILURES]
)
def test_a_gate_says_no(evidence: Evidence, gate: str, text: str) -> None:
    assert (gate, text) in refused(evidence)
    assert [name for name, _ in refused(evidence)] == [gate]
    with pytest.raises((Refused, Busy)) as caught:
        require_all(evidence, POLICY, NOW)
    assert text in caught.value.message
    assert caught.value.state == "untouched"


def test_an_edit_voids_everything_that_was_said() -> None:
    """The digest of an edited change is another one: what was said of the old one is not in its evidence."""
    edited = replace(EVIDENCE, digest=OTHER, said=(), certificates=())
    assert [gate for gate, _ in refused(edited)] == ["author", "ladder", "approvals", "consent", "announcement"]


def test_two_approvals_are_two_people() -> None:
    """One person with both roles, two addresses and two keys is still one."""
    policy = replace(POLICY, roles={})
    both = without(
        Kind.APPROVE,
        add=(approval("bob", "correctness", key="SHA256:laptop"), approval("bob", "safety", key="SHA256:token")),
    )
    assert refused(both, policy) == [("approvals", '"safety" and another approval are by one person, bob')]


def test_one_key_is_one_person_whatever_names_it_signs_with() -> None:
    policy = replace(POLICY, roles={})
    shared = without(
        Kind.APPROVE, add=(approval("bob", "correctness", key="SHA256:k"), approval("eve", "safety", key="SHA256:k"))
    )
    assert refused(shared, policy) == [
        ("ladder", "rehearsed on staging by bob only, and the policy asks for 2 people"),  # nor are they two there
        ("approvals", '"safety" and another approval are by one person, eve'),
    ]


@pytest.mark.parametrize(
    ("owners", "others"),
    [
        ((), ()),
        ((KeyOwner("bob", "SHA256:token"), KeyOwner("cem", "SHA256:token")), ()),  # as allowed_signers has it
        ((), (said(Kind.CLAIM, "bob", key="SHA256:token"), said(Kind.RELEASE, "cem", key="SHA256:token"))),
    ],
    ids=["nothing links them", "a key that the file gives to both", "a key that both have used"],
)
def test_who_shares_a_key_with_another_is_that_person_whatever_they_sign_with(
    owners: tuple[KeyOwner, ...], others: tuple[Said, ...]
) -> None:
    """Bob and cem each approve with a key of their own; there is a third key, which is of both."""
    evidence = replace(EVIDENCE, owners=owners, claims=others)
    linked = bool(owners or others)
    found = dict(refused(evidence))
    assert found.get("approvals") == ('"safety" and another approval are by one person, cem' if linked else None)
    mine = replace(
        evidence, undo_of="production-41", said=(said(Kind.APPROVE, "bob", approval="undo", run="production-41"),)
    )
    assert ("undo" in undo_verdicts(mine)) is linked


def test_who_has_a_key_of_the_authors_is_an_author() -> None:
    evidence = replace(EVIDENCE, owners=(KeyOwner("ann", "SHA256:other"), KeyOwner("cem", "SHA256:other")))
    assert refused(evidence) == [("approvals", '"safety" is not approved: cem wrote or edited it')]


def test_the_author_rehearses_where_one_person_is_enough() -> None:
    """Protocol B: the creator of the task runs it in the lower environments. From two on, one of them is somebody else."""
    alone = replace(EVIDENCE, certificates=(certificate("ann"),))
    assert refused(alone, replace(POLICY, rehearsals=1)) == []
    assert dict(refused(alone)) == {"ladder": "rehearsed on staging by ann only, and the policy asks for 2 people"}


def test_people_are_given_to_kinds_so_that_all_have_one() -> None:
    """Bob approved both, cem only correctness: bob counts for safety, and cem for correctness."""
    policy = replace(POLICY, roles={})
    given = (approval("bob", "correctness"), approval("bob", "safety"), approval("cem", "correctness"))
    assert refused(without(Kind.APPROVE, add=given), policy) == []


def test_an_approval_after_a_rejection_by_the_same_person_counts() -> None:
    no = said(Kind.REJECT, "cem", why="not yet", hours_ago=35)
    assert refused(without(add=(no,))) == []


@pytest.mark.parametrize("error", ["expectation_failed", "assertion_failed", "proof_failed"])
def test_a_run_that_the_change_failed_voids_approvals_and_consent(error: str) -> None:
    found = dict(refused(failed_run(error)))
    assert set(found) == {"approvals", "consent"}
    assert f"the approval by cem is void: run production-7 failed ({error})" in found["approvals"]


@pytest.mark.parametrize(
    "evidence",
    [
        *(failed_run(code) for code in ("busy", "interrupted", "database_error", "refused", "outcome_unknown")),
        failed_run("assertion_failed", mode="ghost"),
        failed_run("assertion_failed", digest=OTHER),
        failed_run("assertion_failed", hours_ago=31),  # approved again since
    ],
)
def test_what_says_nothing_about_the_change_voids_nothing(evidence: Evidence) -> None:
    assert refused(evidence) == []


def test_who_the_policy_names_overrules_an_objection() -> None:
    overruled = said(Kind.OVERRULE, "bob", statement=OBJECTION.statement.identifier, why="it has ended")
    assert refused(without(add=(OBJECTION, overruled))) == []


def test_an_author_does_not_overrule_an_objection_to_their_own_change() -> None:
    policy = replace(POLICY, overrule=("ann",))
    overruled = said(Kind.OVERRULE, "ann", statement=OBJECTION.statement.identifier, why="mine")
    assert [gate for gate, _ in refused(without(add=(OBJECTION, overruled)), policy)] == ["objections"]
    as_another = said(Kind.OVERRULE, "bob", key="SHA256:ann", statement=OBJECTION.statement.identifier, why="mine")
    both = [gate for gate, _ in refused(without(add=(OBJECTION, as_another)))]  # and bob's approval is an author's, too
    assert both == ["approvals", "objections"]


def test_an_objection_that_its_maker_withdrew_is_closed() -> None:
    withdrawn = said(Kind.WITHDRAW, "eve", statement=OBJECTION.statement.identifier)
    assert refused(without(add=(OBJECTION, withdrawn))) == []


def test_every_channel_of_the_policy_must_have_been_told() -> None:
    policy = replace(POLICY, announce=AnnouncePolicy(("dev", "leads")))
    one = without(Kind.ANNOUNCE, add=(announcement(30, to=["dev"]),))
    assert refused(one, policy) == [("announcement", "it was not announced to leads")]
    late = without(Kind.ANNOUNCE, add=(announcement(30, to=["dev"]), announcement(2, to=["leads"])))
    assert [gate for gate, _ in refused(late, policy)] == ["announcement"]
    both = without(Kind.ANNOUNCE, add=(announcement(30, to=["dev"]), announcement(25, to=["leads"])))
    assert refused(both, policy) == []


def test_the_waiting_time_is_by_the_databases_clock() -> None:
    """A laptop whose clock is two days fast said `at`; what counts is `database_at`."""
    receipt = said(
        Kind.ANNOUNCE, "cem", hours_ago=48, to=[], database_at=(NOW - timedelta(hours=1)).isoformat()
    )  # fmt: skip
    found = [one for one in judge_all(without(Kind.ANNOUNCE, add=(receipt,)), POLICY, NOW) if not one.satisfied]
    assert [one.gate for one in found] == ["announcement"]
    assert found[0].earliest == NOW + timedelta(hours=23)


@pytest.mark.parametrize(
    ("now", "opens"),
    [
        (NOW, None),
        (NOW.replace(hour=17), datetime(2026, 11, 23, 9, tzinfo=UTC)),  # Friday evening: on Monday
        (NOW.replace(hour=8, minute=59), NOW.replace(hour=9)),
        (NOW + timedelta(days=1), datetime(2026, 11, 23, 9, tzinfo=UTC)),
    ],
)
def test_runs_begin_inside_the_window(now: datetime, opens: datetime | None) -> None:
    verdict = next(one for one in judge_all(EVIDENCE, POLICY, now) if one.gate == "window")
    assert (verdict.satisfied, verdict.earliest) == (opens is None, opens)


def test_a_window_over_midnight_belongs_to_the_day_it_begins_on() -> None:
    night = Window(frozenset({4}), time(22), time(4), ZoneInfo("Europe/Berlin"), "Fri 22:00-04:00 Europe/Berlin")
    policy = replace(POLICY, window=(night,))
    hours = {22: False, 23: True}  # 20 November, UTC: Berlin is an hour ahead
    for hour, inside in {20: False, 21: True, **dict.fromkeys(hours, True)}.items():
        assert ("window" not in dict(refused(EVIDENCE, policy, NOW.replace(hour=hour)))) is inside
    assert "window" not in dict(refused(EVIDENCE, policy, datetime(2026, 11, 21, 2, 59, tzinfo=UTC)))
    assert "window" in dict(refused(EVIDENCE, policy, datetime(2026, 11, 21, 3, tzinfo=UTC)))


def test_a_claim_is_free_again_after_its_release_or_for_who_took_it_over() -> None:
    mine, theirs = said(Kind.CLAIM, "cem", hours_ago=1), said(Kind.CLAIM, "bob", hours_ago=3)
    released = replace(EVIDENCE, claims=(theirs, said(Kind.RELEASE, "bob", hours_ago=2)))
    assert refused(released) == []
    assert [gate for gate, _ in refused(replace(EVIDENCE, claims=(theirs, mine)))] == ["claim"]
    taken_over = said(Kind.CLAIM, "cem", hours_ago=1, take_over=True)
    assert refused(replace(EVIDENCE, claims=(theirs, taken_over))) == []
    foreign = said(Kind.RELEASE, "eve", hours_ago=2)
    assert [gate for gate, _ in refused(replace(EVIDENCE, claims=(theirs, foreign)))] == ["claim"]


def test_a_claim_of_another_is_busy_not_refused() -> None:
    with pytest.raises(Busy):
        require_all(replace(EVIDENCE, claims=(said(Kind.CLAIM, "bob"),)), POLICY, NOW)


def test_a_ghost_undo_stands_in_for_a_rehearsal_where_the_policy_accepts_it() -> None:
    ghost = certificate("cem", environment="production", way=GHOST_UNDO)
    evidence = replace(EVIDENCE, certificates=(ghost,))
    assert [gate for gate, _ in refused(evidence)] == ["ladder"]
    assert refused(evidence, replace(POLICY, accept_ghost_undo=True)) == []
    other_values = replace(EVIDENCE, certificates=(replace(ghost, binding="ab"),))
    assert [gate for gate, _ in refused(other_values, replace(POLICY, accept_ghost_undo=True))] == ["ladder"]
    elsewhere = replace(EVIDENCE, certificates=(replace(ghost, environment="dev"),))
    assert [gate for gate, _ in refused(elsewhere, replace(POLICY, accept_ghost_undo=True))] == ["ladder"]


def test_a_session_below_is_the_rehearsal_of_a_session_and_of_nothing_else() -> None:
    done = tuple(replace(one, way=SESSION) for one in EVIDENCE.certificates)
    assert refused(replace(EVIDENCE, certificates=done, is_session=True)) == []
    assert [gate for gate, _ in refused(replace(EVIDENCE, certificates=done))] == ["ladder"]
    assert [gate for gate, _ in refused(replace(EVIDENCE, is_session=True))] == ["ladder"]


@pytest.mark.parametrize(
    ("production", "staging", "attestations", "counts"),
    [(0, 0, 0, True), (0, 1, 0, False), (0, 1, 1, True), (1, 0, 0, False), (1, 0, 1, True), (1, 2, 1, False), (2, 1, 2, True)],
)  # fmt: skip
def test_the_stricter_of_both_policies_says_how_many_look_at_a_rehearsal(
    production: int, staging: int, attestations: int, counts: bool
) -> None:
    policy = replace(POLICY, attest=production, rehearsals=1)
    evidence = replace(
        seen(*SEEN[:attestations]), certificates=(certificate("bob"),), attest_on={"staging": staging}
    )  # fmt: skip
    assert (refused(evidence, policy) == []) is counts


def test_an_unattested_rehearsal_beside_an_attested_one_stops_nothing() -> None:
    policy = replace(POLICY, rehearsals=1)
    assert refused(seen(*SEEN[2:]), policy) == []


@pytest.mark.parametrize(
    ("evidence", "policy", "is_satisfied"),
    [
        (replace(EVIDENCE, subset_runs=()), POLICY, False),
        (replace(EVIDENCE, subset_runs=(), is_subset=True), POLICY, True),
        (replace(EVIDENCE, subset_runs=(), has_subset=False), POLICY, True),
        (replace(EVIDENCE, subset_runs=()), replace(POLICY, subset=False), True),
        (EVIDENCE, POLICY, True),
    ],
    ids=["none was run", "this is one", "it has none", "nobody asks for one", "one was run"],
)
def test_the_whole_waits_for_a_subset_of_it(evidence: Evidence, policy: Policy, is_satisfied: bool) -> None:
    assert ("subset" not in dict(refused(evidence, policy))) is is_satisfied


# -- who may see PHI


ANN = replace(EVIDENCE, operator=PEOPLE.known["ann"], operator_name="ann")
STRANGER = Evidence("close", DIGEST, "dev", operator_name="mallory")


@pytest.mark.parametrize(
    ("evidence", "policy", "text"),
    [
        (EVIDENCE, replace(POLICY, reveal=("platform",)), None),
        (EVIDENCE, replace(POLICY, reveal=("cem",)), None),
        (EVIDENCE, POLICY, "nobody may see rows of production that are PHI"),
        (ANN, replace(POLICY, reveal=("platform",)), "ann may not see rows of production that are PHI"),
        (replace(ANN, operator=None), replace(POLICY, reveal=("ann",)), "ann may not see rows of production that are PHI"),
        (
            replace(EVIDENCE, operator_key=None), replace(POLICY, reveal=("platform",)),
            "it is not known for certain who wants to see PHI: cem has not signed",
        ),
        (STRANGER, Policy(), None),
        (STRANGER, Policy(reveal=("ann",)), "mallory may not see rows of dev that are PHI"),
        (STRANGER, Policy(reveal=("mallory",)), None),
        (replace(STRANGER, people=PEOPLE), Policy(reveal=("mallory",)), "mallory may not see rows of dev that are PHI"),
    ],
)  # fmt: skip
def test_phi_is_shown_to_whom_the_policy_names(evidence: Evidence, policy: Policy, text: str | None) -> None:
    verdict = reveal.judge(evidence, policy, NOW)
    assert (None if verdict.satisfied else verdict.text) == text
    assert verdict.satisfied or verdict.hint


# -- emergencies

EMERGENCY = replace(
    EVIDENCE, said=(), certificates=(), subset_runs=(), operator=PEOPLE.known["eve"], operator_name="eve",
    operator_key="SHA256:eve", emergency="patients cannot be admitted",
)  # fmt: skip


def test_an_emergency_waits_for_nobody_but_says_what_it_skips() -> None:
    at_night = NOW.replace(hour=2)
    verdicts = require_all(EMERGENCY, POLICY, at_night)
    skipped = [one.gate for one in verdicts if not one.satisfied]
    assert skipped == ["author", "ladder", "approvals", "consent", "announcement", "window", "subset"]


@pytest.mark.parametrize(
    ("broken", "gate"),
    [
        (replace(EMERGENCY, operator=PEOPLE.known["cem"], operator_name="cem"), "operator"),
        (replace(EMERGENCY, operator_key=None), "operator"),
        (replace(EMERGENCY, hosts=("elsewhere",)), "host"),
        (replace(EMERGENCY, tampered="entry 3: altered"), "ledger"),
        (replace(EMERGENCY, documents={}), "documents"),
        (replace(EMERGENCY, emergency="x"), "emergency"),
        (replace(EMERGENCY, claims=(said(Kind.CLAIM, "bob"),)), "claim"),
    ],
)
def test_an_emergency_skips_neither_who_it_is_nor_the_guards(broken: Evidence, gate: str) -> None:
    with pytest.raises((Refused, Busy)) as caught:
        require_all(broken, POLICY, NOW)
    assert (caught.value.gate if isinstance(caught.value, Refused) else "claim") == gate


def test_an_environment_whose_policy_names_nobody_knows_no_emergency() -> None:
    with pytest.raises(Refused) as caught:
        require_all(EMERGENCY, replace(POLICY, emergency=()), NOW)
    assert caught.value.message.startswith("production knows no emergency")


NIGHT = PastRun("production-9", OTHER, "real", "committed", "eve", emergency="fire at night")


@pytest.mark.parametrize(
    ("reviews", "is_reviewed"),
    [
        ((), False),
        (("bob",), False),
        (("bob", "bob"), False),
        (("bob", "eve"), False),  # who ran it does not review it
        (("bob", "cem"), True),
    ],
)
def test_the_next_ordinary_run_waits_for_two_reviewers(reviews: tuple[str, ...], is_reviewed: bool) -> None:
    statements = tuple(said(Kind.REVIEW, name, digest=OTHER, run="production-9") for name in reviews)
    evidence = replace(EVIDENCE, runs=(NIGHT,), reviews=statements)
    assert (refused(evidence) == []) is is_reviewed


def test_two_reviewers_have_two_keys() -> None:
    both = (said(Kind.REVIEW, "bob", key="SHA256:k", run="production-9"),
            said(Kind.REVIEW, "cem", key="SHA256:k", run="production-9"))  # fmt: skip
    found = dict(refused(replace(EVIDENCE, runs=(NIGHT,), reviews=both)))
    assert found["review"] == "emergency run production-9 owes a review by 2 people (so far: bob)"


@pytest.mark.parametrize(
    ("outcome", "batches", "owes"),
    [
        ("committed", 0, True), ("unknown", 0, True), ("partial", 3, True), ("interrupted", 3, True),
        ("rolled back", 3, True), ("interrupted", 0, False), ("rolled back", 0, False), ("refused", 0, False),
    ],
)  # fmt: skip
def test_an_emergency_owes_a_review_as_soon_as_rows_of_it_may_be_there(outcome: str, batches: int, owes: bool) -> None:
    """One in batches that is stopped before its last batch has committed all the others."""
    run = replace(NIGHT, outcome=outcome, batches=batches)
    assert [gate for gate, _ in refused(replace(EVIDENCE, runs=(run,)))] == (["review"] if owes else [])


def test_a_second_word_on_a_run_does_not_take_back_the_first() -> None:
    denied = replace(NIGHT, outcome="rolled back")
    for runs in ((NIGHT, denied), (denied, NIGHT)):
        assert [gate for gate, _ in refused(replace(EVIDENCE, runs=runs))] == ["review"]


@pytest.mark.parametrize(("hours_ago", "counts"), [(1, True), (3, False)])
def test_what_was_said_before_a_run_ended_is_of_another_run_of_that_number(hours_ago: float, counts: bool) -> None:
    ended = NOW - timedelta(hours=2)
    reviews = tuple(said(Kind.REVIEW, name, run="production-9", hours_ago=hours_ago) for name in ("bob", "cem"))
    night = replace(NIGHT, finished_at=ended)
    assert (refused(replace(EVIDENCE, runs=(night,), reviews=reviews)) == []) is counts
    undone = replace(
        EVIDENCE, undo_of="production-9", runs=(replace(night, emergency=None),),
        said=(said(Kind.APPROVE, "bob", approval="undo", run="production-9", hours_ago=hours_ago),),
    )  # fmt: skip
    assert (undo_verdicts(undone) == []) is counts


def test_a_stranger_reviews_nothing_and_neither_does_the_operator_under_another_name() -> None:
    def reviewed(*others: Said) -> list[str]:
        reviews = (said(Kind.REVIEW, "bob", run="production-9"), *others)
        found = refused(replace(EVIDENCE, runs=(NIGHT,), reviews=reviews))
        return [gate for gate, _ in found if gate != "ladder"]  # where one of two rehearsals is not another person's

    assert reviewed(said(Kind.REVIEW, "dan", run="production-9")) == []
    assert reviewed(said(Kind.REVIEW, "mallory", run="production-9")) == ["review"]
    assert reviewed(said(Kind.REVIEW, "dan", run="production-9", key="SHA256:eve")) == ["review"]


# -- undo


def undo_verdicts(evidence: Evidence, policy: Policy = POLICY) -> list[str]:
    return [one.gate for one in judge_all(evidence, policy, NOW, GATES_OF_UNDO) if not one.satisfied]


def test_an_undo_needs_an_operator_and_neither_ladder_nor_notice() -> None:
    bare = replace(EVIDENCE, said=(), certificates=(), documents={})
    assert undo_verdicts(bare) == []
    assert undo_verdicts(replace(bare, operator=PEOPLE.known["ann"], operator_name="ann")) == ["operator"]


def test_an_undo_that_overwrites_wants_one_more_approval_by_somebody_else() -> None:
    wanted = replace(EVIDENCE, undo_of="production-41")
    assert undo_verdicts(wanted) == ["undo"]

    def approved(person: str, run: str = "production-41", **more: Any) -> Evidence:
        return replace(wanted, said=(said(Kind.APPROVE, person, approval="undo", run=run, **more),))

    assert undo_verdicts(approved("bob")) == []
    assert undo_verdicts(approved("cem")) == ["undo"]
    assert undo_verdicts(approved("bob", "production-40")) == ["undo"]
    assert undo_verdicts(approved("bob", key="SHA256:cem")) == ["undo"]
    assert undo_verdicts(approved("mallory")) == ["undo"]


# -- a backup in the place of a database


def test_a_restore_wants_the_word_of_somebody_else_each_time() -> None:
    def judged(*statements: Said, policy: Policy = POLICY) -> bool:
        evidence = replace(EVIDENCE, change="restore", said=statements, restore_of="b-1")
        return approvals.judge_restore(evidence, policy, NOW).satisfied

    def approved(person: str, backup: str = "b-1", **more: Any) -> Said:
        return said(Kind.APPROVE, person, approval="restore", backup=backup, **more)

    assert judged(approved("bob"))
    assert judged(policy=replace(POLICY, approvals=()))
    assert not judged()
    assert not judged(approved("cem"))
    assert not judged(approved("bob", key="SHA256:cem"))
    assert not judged(approved("mallory"))
    assert not judged(approved("bob", "b-2"))
    assert not judged(approved("bob", environment="staging"))
    assert not judged(said(Kind.APPROVE, "bob", approval="undo", run="b-1"))
    done = said(Kind.RESTORE, "cem", backup="b-1", hours_ago=2)
    assert not judged(approved("bob", hours_ago=3), done)
    assert judged(approved("bob", hours_ago=3), done, approved("bob", hours_ago=1))


# -- the whole


def test_every_gate_that_says_no_says_what_would_satisfy_it() -> None:
    for name, evidence, gate, _ in FAILURES:
        verdict: Verdict = next(
            one for one in judge_all(evidence, POLICY, NOW) if one.gate == gate and not one.satisfied
        )
        assert verdict.hint, name


def test_a_profile_never_asks_for_less_than_the_one_before_it() -> None:
    solo, team, hipaa = (PROFILES[name] for name in ("solo", "team", "hipaa"))
    nothing = Policy()
    assert solo == nothing
    counts: Callable[[Policy], tuple[int, ...]] = lambda one: (  # noqa: E731
        len(one.after), one.rehearsals, len(one.approvals), one.consent, len(one.documents), one.attest, one.identity == SSH,
        one.announce is not None,
    )  # fmt: skip
    for less, more in ((solo, team), (team, hipaa)):
        assert all(a <= b for a, b in zip(counts(less), counts(more), strict=True))
