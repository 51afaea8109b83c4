"""What people say: `project.statements`, of which the command line's verbs for people are a thin copy.

Each method makes one statement, signs it as the environment's policy asks, and writes it to the ledger (and beside the
change, where the project keeps statements in files). What the gates would not count is refused here already, with the
same words; but that is courtesy: the gates judge anew at each run, whatever way a statement came into the ledger.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from backout.change.model import Change
from backout.change.nearest import suggest
from backout.errors import Refused, UsageError
from backout.gates import approvals, documents, reveal
from backout.gates.announcement import open_objections
from backout.gates.approvals import RESTORE, UNDO
from backout.gates.certificate import Certificate
from backout.gates.checklist import checklist
from backout.gates.claims import claimed_by
from backout.gates.evidence import Evidence, Said, Verdict
from backout.gates.policy import OS_USER, SSH, Policy
from backout.gates.verdicts import GATES
from backout.ledger.signing import verify
from backout.ledger.statement import Kind, Signed, Statement
from backout.project.book import Book
from backout.project.certificates import certificate_statement
from backout.project.identity import Speaker, named_key, speaker_of
from backout.project.subject import Subject, subject_of


@dataclass(frozen=True)
class Spoken:
    """A statement that was made: who said it, and where it stands in the ledger."""

    signed: Signed
    person: str
    position: int
    key_unused: bool = False  # a key was named, and it is not signed: there accounts are believed

    @property
    def statement(self) -> Statement:
        """What was said."""
        return self.signed.statement


@dataclass
class Statements:
    """The people's part of a project."""

    book: Book
    key: Path | None = None

    # -- on a change ---------------------------------------------------------------------------------------------------

    def submit(self, change: Change, sealed: Mapping[str, Any] | None = None) -> Spoken:
        """Say that this is the text to be reviewed; who says so counts as its author.

        `sealed` is the text itself, encrypted, where the change is private: see `project/private.py`.
        """
        return self._say(Kind.SUBMIT, subject_of(change, self.book.config), "", self._strictest(), sealed)

    def approve(
        self, change: Change, on: str, approval: str | None = None, *, ticked: Collection[str] = (),
        values: Mapping[str, Any] | None = None,
    ) -> Spoken:  # fmt: skip
        """Approve it for that environment. `ticked` are the questions of `gates.checklist` that one has answered.

        Refused where the documents say nothing yet, and where the person may not give this approval.
        """
        policy, subject = self._policy(on), subject_of(change, self.book.config, values)
        speaker = self._speaker(policy.identity)
        evidence = self._evidence(subject, on, policy)
        kind = approval or self._usual_approval(policy, evidence, speaker, on)
        if kind not in policy.approvals:
            raise UsageError(f'"{on}" asks for no approval "{kind}"', hint=suggest(kind, policy.approvals))
        _require(documents.judge(evidence, policy, _now()))
        details = {"approval": kind, "parameters": subject.binding, "checklist": list(ticked)}
        statement = self._statement(Kind.APPROVE, subject, on, speaker, details)
        said = Said(statement, speaker.name)
        missing = [one for one in checklist(kind) if one not in ticked]
        if missing:
            raise UsageError(f'a question is not answered: "{missing[0]}"', hint="tick it: --tick 1,2,… or --tick all")
        problem = approvals.objection_to(said, kind, evidence, policy)
        if problem is not None:
            raise Refused("approvals", f"this approval would not count: {problem}", hint="let somebody else approve")
        return self._write(speaker.say(statement), speaker, subject.path)

    def reject(self, change: Change, on: str, why: str) -> Spoken:
        """Say no; it stands until the same person approves."""
        return self._say(Kind.REJECT, self._subject(change), on, self._policy(on), {"why": _reason(why)})

    def object(self, change: Change, on: str, why: str) -> Spoken:
        """Stop the run until this is withdrawn, or overruled by whom the policy names."""
        return self._say(Kind.OBJECT, self._subject(change), on, self._policy(on), {"why": _reason(why)})

    def withdraw(self, change: Change, on: str, objection: str | None = None) -> Spoken:
        """Take one's own objection back."""
        policy, subject = self._policy(on), self._subject(change)
        speaker = self._speaker(policy.identity)
        mine = [one for one in self._objections(subject, on, policy) if one.person == speaker.name]
        found = _named(mine, objection, f"{speaker.name} has no open objection to it")
        return self._say(Kind.WITHDRAW, subject, on, policy, {"statement": found.statement.identifier})

    def overrule(self, change: Change, on: str, why: str, objection: str | None = None) -> Spoken:
        """Overrule another's objection; Refused for whom the policy does not name."""
        policy, subject = self._policy(on), self._subject(change)
        speaker = self._speaker(policy.identity)
        person = self.book.config.people.find(speaker.principal)
        if person is None or not person.is_called(policy.overrule):
            may = " or ".join(policy.overrule) or "nobody"
            raise Refused("objections", f"{speaker.name} may not overrule an objection", hint=f"{may} may")
        found = _named(self._objections(subject, on, policy), objection, "nobody objects to it")
        details = {"statement": found.statement.identifier, "why": _reason(why)}
        return self._say(Kind.OVERRULE, subject, on, policy, details)

    def consent(self, change: Change, on: str) -> Spoken:
        """Consent as the product owner who asked for it."""
        return self._say(Kind.CONSENT, self._subject(change), on, self._policy(on))

    def announced(
        self, change: Change, on: str, to: Sequence[str], database_at: datetime,
        receipts: Sequence[Mapping[str, Any]] = (),
    ) -> Spoken:  # fmt: skip
        """The receipt of an announcement: which channels took it, and the target database's time then."""
        details = {"to": list(to), "database_at": database_at.isoformat(), "receipts": list(receipts)}
        return self._say(Kind.ANNOUNCE, self._subject(change), on, self._policy(on), details)

    def told(self, subject: Subject, on: str, event: str, receipts: Sequence[Mapping[str, Any]]) -> Spoken:
        """Whom else was told of what: no announcement that a waiting time could run from, hence without its time."""
        return self._say(Kind.ANNOUNCE, subject, on, self._policy(on), {"event": event, "receipts": list(receipts)})

    def claim(self, change: Change, on: str, why: str = "", *, take_over: bool = False) -> Spoken:
        """Say that one is on it; Refused where somebody else is, unless it is taken over with a reason."""
        policy, subject = self._policy(on), self._subject(change)
        speaker = self._speaker(policy.identity)
        reading = self.book.read()
        holder = claimed_by(self.book.find(reading, subject, on, policy, _now()).claims)
        if holder is not None and holder.person != speaker.name and not take_over:
            since = holder.at.isoformat(sep=" ", timespec="minutes")
            raise Refused("claim", f"{holder.person} is on it since {since}", hint="--take-over --why …")
        details = {"why": _reason(why) if take_over else why, "take_over": take_over}
        return self._say(Kind.CLAIM, subject, on, policy, details)

    def release(self, change: Change, on: str) -> Spoken:
        """Say that one is not on it any more."""
        return self._say(Kind.RELEASE, self._subject(change), on, self._policy(on))

    def certify(self, change: Change, certificate: Certificate) -> Spoken:
        """Vouch for a rehearsal. Without a key of the speaker's it is unsigned, and a strict policy will not count it."""
        speaker = self._anybody()
        made = certificate_statement(certificate, speaker.principal, self.book.config.name, _now())
        return self._write(speaker.say(made), speaker, None if change.is_private else change.path)

    # -- on a run ------------------------------------------------------------------------------------------------------

    def attest(self, run: str, subject: Subject, on: str, saw: str) -> Spoken:
        """Say what one saw of the application after a run.

        Signed wherever anything is: an attested rehearsal counts where its own environment does not look.
        """
        self._policy(on)
        speaker = self._anybody()
        made = self._statement(Kind.ATTEST, subject, on, speaker, {"run": run, "saw": _reason(saw)})
        return self._write(speaker.say(made), speaker, subject.path)

    def agree(self, run: str, subject: Subject, on: str, content: str) -> Spoken:
        """Agree to what a session did; `content` is the hash of its rows before and after."""
        return self._say(Kind.AGREE, subject, on, self._policy(on), {"run": run, "content": content})

    def refuse(self, run: str, subject: Subject, on: str, content: str, why: str) -> Spoken:
        """Say no to it: it is rolled back."""
        details = {"run": run, "content": content, "why": _reason(why)}
        return self._say(Kind.REFUSE, subject, on, self._policy(on), details)

    def review(self, run: str, subject: Subject, on: str) -> Spoken:
        """Say that one has read what was done in an emergency."""
        return self._say(Kind.REVIEW, subject, on, self._policy(on), {"run": run})

    def reveal(self, run: str, subject: Subject, on: str, *, kept: bool = True) -> None:
        """Say that one is about to look at rows of a run that are PHI. Refused for whom the policy does not name.

        Without `kept` the ledger is left alone where nobody needs one: the run's own record will have it.
        """
        policy = self.book.config.policy_for(on)
        speaker = self._speaker(policy.identity)
        signed = speaker.say(self._statement(Kind.REVEAL, subject, on, speaker, {"run": run}))
        evidence = Evidence(
            subject.identifier, subject.digest, on, operator=self.book.config.people.find(speaker.principal),
            operator_name=speaker.name, operator_key=self.book.check([signed])[0].key, people=self.book.config.people,
        )  # fmt: skip
        _require(reveal.judge(evidence, policy, _now()))
        if kept or self.book.in_use(policy):
            self._write(signed, speaker, subject.path)

    def retain(self, run: str, subject: Subject, on: str, until: datetime, why: str) -> Spoken:
        """Say why what is kept of a run is kept longer."""
        details = {"run": run, "until": until.isoformat(), "why": _reason(why)}
        return self._say(Kind.RETAIN, subject, on, self._policy(on), details)

    def approve_undo(self, run: str, subject: Subject, on: str) -> Spoken:
        """Approve an undo that overwrites what others wrote, or that undoes an undo."""
        details = {"approval": UNDO, "run": run, "parameters": "", "checklist": []}
        return self._say(Kind.APPROVE, subject, on, self._policy(on), details)

    def approve_restore(self, backup: str, on: str) -> Spoken:
        """Approve that this backup takes the place of that environment's database, once."""
        details = {"approval": RESTORE, "backup": backup, "parameters": "", "checklist": []}
        return self._say(Kind.APPROVE, Subject(Kind.RESTORE.value, ""), on, self._policy(on), details)

    # -- looking -------------------------------------------------------------------------------------------------------

    def approval_of(self, change: Change, on: str, approval: str | None) -> str:
        """The kind that `approve` would give, for showing its checklist first."""
        policy = self._policy(on)
        evidence = self._evidence(self._subject(change), on, policy)
        return approval or self._usual_approval(policy, evidence, self._speaker(policy.identity), on)

    # -- making one ----------------------------------------------------------------------------------------------------

    def _say(
        self, kind: Kind, subject: Subject, on: str, policy: Policy, details: Mapping[str, Any] | None = None
    ) -> Spoken:
        speaker = self._speaker(policy.identity)
        signed = speaker.say(self._statement(kind, subject, on, speaker, details or {}))
        return self._write(signed, speaker, subject.path)

    def _statement(
        self, kind: Kind, subject: Subject, on: str, speaker: Speaker, details: Mapping[str, Any]
    ) -> Statement:
        return Statement(
            kind, subject.identifier, subject.digest, on, speaker.principal, _now(), details, self.book.config.name
        )

    def _write(self, signed: Signed, speaker: Speaker, path: Path | None) -> Spoken:
        """Append it, once its signature is seen to be good: one that nobody can verify helps nobody."""
        if signed.signature is not None and (problem := verify(signed, self.book.config.signers_file).problem):
            raise UsageError(f"the signature does not verify: {problem}", hint="see `backout doctor`")
        unused = signed.signature is None and named_key(self.key) is not None
        return Spoken(signed, speaker.name, self.book.write(signed, path).position, unused)

    def _speaker(self, identity: str) -> Speaker:
        return speaker_of(self.book.config, identity, self.key)

    def submitter(self) -> Speaker:
        """Who would submit a change now. UsageError where no key of theirs is found."""
        return self._speaker(self._strictest().identity)

    def require_speaker(self, policy: Policy | None = None) -> str:
        """The name of who will speak at the end; UsageError, before anything is done, where nobody could. None: vouching."""
        return (self._anybody() if policy is None else self._speaker(policy.identity)).name

    def leaves_key_unused(self, on: str) -> bool:
        """Whether somebody named a key, and what they say there is not signed: accounts are believed."""
        environment = self.book.config.environment(on).name
        return named_key(self.key) is not None and self._policy(environment).identity != SSH

    def _anybody(self) -> Speaker:
        """The speaker by their key where they have one, else by their account. UsageError where a named key is nobody's."""
        try:
            return self._speaker(self._strictest().identity)
        except UsageError:
            if named_key(self.key) is not None:
                raise
            return self._speaker(OS_USER)

    def _policy(self, on: str) -> Policy:
        self.book.config.environment(on)  # UsageError, with the nearest name, where there is none
        return self.book.config.policy_for(on)

    def _strictest(self) -> Policy:
        """The policy for what is said of no environment in particular: signed, where any environment wants that."""
        return Policy(identity=SSH if self.are_signed else OS_USER)

    @property
    def are_signed(self) -> bool:
        """Whether what is said of no environment in particular is signed."""
        return any(one.policy.identity == SSH for one in self.book.config.environments.values())

    def _subject(self, change: Change) -> Subject:
        return subject_of(change, self.book.config)

    def _evidence(self, subject: Subject, on: str, policy: Policy) -> Evidence:
        """What is known without a database: enough to tell whether a statement would count."""
        found = self.book.find(self.book.read(), subject, on, policy, _now())
        submitters = {one.person for one in found.said if one.kind is Kind.SUBMIT}
        return Evidence(
            subject.identifier, subject.digest, on, subject.documents, subject.title, subject.is_link, subject.binding,
            subject.authors | submitters, people=self.book.config.people, said=found.said, ignored=found.ignored,
            owners=self.book.owners if policy.identity == SSH else (),
        )  # fmt: skip

    def _objections(self, subject: Subject, on: str, policy: Policy) -> tuple[Said, ...]:
        return open_objections(self._evidence(subject, on, policy), policy)

    def _usual_approval(self, policy: Policy, evidence: Evidence, speaker: Speaker, on: str) -> str:
        """The first kind that is not given yet and that the speaker may give."""
        if not policy.approvals:
            raise UsageError(f'"{on}" asks for no approval', hint=f"backout status {evidence.change} --on {on}")
        given = {one.detail("approval") for one in evidence.about(Kind.APPROVE)}
        person = self.book.config.people.find(speaker.principal)
        for kind in policy.approvals:
            words = policy.roles.get(kind, ())
            if kind not in given and (not words or (person is not None and person.is_called(words))):
                return kind
        return policy.approvals[0]


def all_gates(verdicts: Sequence[Verdict]) -> bool:
    """Whether every gate of an ordinary run is satisfied."""
    return len(verdicts) == len(GATES) and all(one.satisfied for one in verdicts)


def _require(verdict: Verdict) -> None:
    if not verdict.satisfied:
        raise Refused(verdict.gate, verdict.text, hint=verdict.hint)


def _reason(text: str) -> str:
    if not text.strip():
        raise UsageError("a reason is missing", hint='say why: --why "…"')
    return text.strip()


def _named(objections: Sequence[Said], beginning: str | None, none: str) -> Said:
    """The objection whose identifier begins like that; the only one where none is named."""
    found = [one for one in objections if one.statement.identifier.startswith(beginning or "")]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UsageError(none, hint="see `backout status`")
    known = ", ".join(one.statement.identifier[:12] for one in found)
    raise UsageError("there are several objections", hint=f"name one: --objection, of {known}")


def _now() -> datetime:
    return datetime.now(UTC)
