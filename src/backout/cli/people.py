"""The verbs with which people say something about a change: submit, approve, reject, object, …, claim, attest.

Not for: deciding what counts (`gates`). Invariant: whatever is printed says who spoke, and whether that is proven by a
signature or believed of an account.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from backout.cli.options import CHANGE, CONFIG, JSON, KEY, PARAM, on_option, verb
from backout.cli.screen import is_terminal, plain, show_error, show_json, show_text
from backout.errors import UsageError

if TYPE_CHECKING:
    from backout.change.model import Change
    from backout.project import Project
    from backout.project.statements import Spoken

WHY = click.option("--why", required=True, metavar="TEXT", help="The reason, for everybody to read.")
OBJECTION = click.option(
    "--objection",
    metavar="ID",
    help="Which objection, by the beginning of its id; needed only where there are several.",
)


@verb(
    "submit",
    example="backout submit close-outage-referrals\nbackout submit --private ../merge-patients.sql --to bob --to platform",
)
@CHANGE
@click.option("--private", is_flag=True, help="Put its text into the ledger, encrypted, and nowhere else.")
@click.option(
    "--to", "to", multiple=True, metavar="WHOM",
    help="With --private: a person, role or team that can read it; can be repeated. [default: everybody in [people]]",
)  # fmt: skip
@KEY
@CONFIG
@JSON
def submit(
    change: str, key: Path | None, config: Path | None, *, private: bool, to: tuple[str, ...], json_: bool
) -> None:
    """Hand a change in for review, as it is now.

    Whoever submits counts as an author, and cannot approve. After any edit it has to be submitted again.
    With --private everything that takes a change takes it from the ledger by its name, for those whose key opens it.
    """
    if to and not private:
        raise UsageError("--to is for --private", hint="a change that is submitted openly is in the project's folder")
    project = _project(config, key)
    found = project.change(change)
    if not private:
        if found.is_private:
            raise UsageError(f'"{change}" is private', hint=f"backout submit --private {change}")
        tell(project.statements.submit(found), "submitted", json_=json_)
        return
    submitted = project.private.submit(found, to)
    tell(submitted.spoken, "submitted, encrypted", json_=json_)
    if json_:
        return
    show_text(plain(f"for: {', '.join(submitted.readers)}"))
    for name, why in submitted.left_out.items():
        show_error(f"note: {name} cannot read it: {why}")
    if not found.is_private:
        show_error(f"note: {found.path} is not needed any more, and should not stay: it is in clear")


@verb(
    "approve",
    example="backout approve close-outage-referrals --on production --for safety --tick all\n"
    "backout approve production-41 --emergency\nbackout approve production-41 --undo\n"
    "backout approve production-20261121T053012000000Z --restore --on production",
)
@click.argument("change", metavar="CHANGE|RUN|BACKUP")
@on_option(required=False)
@click.option("--for", "approval", metavar="KIND", help="Which approval. [default: the first that you may give]")
@click.option("--tick", metavar="N,N|all", help="Questions of the checklist that you answer with yes.")
@click.option("--emergency", is_flag=True, help="RUN was an emergency: you have reviewed it.")
@click.option("--undo", is_flag=True, help="RUN may be undone over what others wrote since.")
@click.option("--restore", is_flag=True, help="BACKUP may take the place of the database, once.")
@PARAM
@KEY
@CONFIG
@JSON
def approve(
    change: str, on: str | None, approval: str | None, tick: str | None, param: Mapping[str, str], key: Path | None,
    config: Path | None, *, emergency: bool, undo: bool, restore: bool, json_: bool,
) -> None:  # fmt: skip
    """Approve a change for an environment, with every question of the checklist answered.

    The change's documents must be complete. Authors cannot approve; two approvals are two people.
    """
    project = _project(config, key)
    if emergency + undo + restore > 1:
        raise UsageError(
            "one of --emergency, --undo and --restore, not several", hint="they are statements of their own"
        )
    if restore:
        where = on or _usual(project)
        tell(project.approve_restore(change, where), f"approved a restore of {change}", json_=json_)
        return
    if emergency or undo:
        run, where, subject = project.about_run(change, on)
        say = project.statements.review if emergency else project.statements.approve_undo
        tell(say(run, subject, where), f"approved {run}", json_=json_)
        return
    on = on or _usual(project)
    found = project.change(change)
    kind = project.statements.approval_of(found, on, approval)
    ticked = _ticked(kind, tick)
    spoken = project.approve(found, on, kind, ticked=ticked, parameters=param)
    tell(spoken, f"approved for {kind}", json_=json_)


@dataclass(frozen=True)
class About:
    """The change that somebody speaks of, and where; `json_`: the answer is for a program."""

    project: Project
    change: Change
    environment: str
    json_: bool

    def tell(self, spoken: Spoken, done: str) -> None:
        """Print the statement that was made."""
        tell(spoken, done, json_=self.json_)


def _about_a_change(*options: Callable[..., Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a verb take CHANGE, --on, --key, --config and --json, handed over as one `About`, and `options` of its own."""

    def decorate(speak: Callable[..., None]) -> Callable[..., None]:
        @wraps(speak)
        def typed(
            change: str, on: str | None, key: Path | None, config: Path | None, *, json_: bool, **more: object
        ) -> None:
            project = _project(config, key)
            speak(About(project, project.change(change), on or _usual(project), json_), **more)

        found: Callable[..., None] = typed
        for option in reversed((CHANGE, on_option(required=False), *options, KEY, CONFIG, JSON)):
            found = option(found)
        return found

    return decorate


@verb("reject", example='backout reject close-outage-referrals --on production --why "it also closes paid ones"')
@_about_a_change(WHY)
def reject(about: About, why: str) -> None:
    """Say no to a change; it stands until you approve."""
    about.tell(about.project.statements.reject(about.change, about.environment, why), "rejected")


@verb("object", example='backout object close-outage-referrals --on production --why "month-end closing runs"')
@_about_a_change(WHY)
def object_(about: About, why: str) -> None:
    """Stop a change that was announced, until you withdraw or are overruled."""
    about.tell(about.project.statements.object(about.change, about.environment, why), "objected")


@verb("withdraw", example="backout withdraw close-outage-referrals --on production")
@_about_a_change(OBJECTION)
def withdraw(about: About, objection: str | None) -> None:
    """Take your own objection back."""
    spoken = about.project.statements.withdraw(about.change, about.environment, objection)
    about.tell(spoken, "withdrew the objection")


@verb("overrule", example='backout overrule close-outage-referrals --on production --why "closing is done"')
@_about_a_change(OBJECTION, WHY)
def overrule(about: About, objection: str | None, why: str) -> None:
    """Overrule somebody's objection, if the policy names you for that."""
    spoken = about.project.statements.overrule(about.change, about.environment, why, objection)
    about.tell(spoken, "overruled the objection")


@verb("consent", example="backout consent close-outage-referrals --on production")
@_about_a_change()
def consent(about: About) -> None:
    """Consent, as the product owner who asked for it."""
    about.tell(about.project.statements.consent(about.change, about.environment), "consented")


@verb("claim", example="backout claim close-outage-referrals --on production")
@_about_a_change(
    click.option("--take-over", is_flag=True, help="Relieve whoever is on it; needs --why."),
    click.option("--why", default="", metavar="TEXT", help="The reason, for everybody to read."),
)
def claim(about: About, why: str, *, take_over: bool) -> None:
    """Say that you are on a change, so that nobody else begins."""
    spoken = about.project.statements.claim(about.change, about.environment, why, take_over=take_over)
    about.tell(spoken, "claimed")


@verb("release", example="backout release close-outage-referrals --on production")
@_about_a_change()
def release(about: About) -> None:
    """Say that you are not on it any more."""
    about.tell(about.project.statements.release(about.change, about.environment), "released")


@verb("attest", example='backout attest production-41 --saw "the referral list shows them as closed"')
@click.argument("run", metavar="RUN")
@on_option(required=False)
@click.option("--saw", required=True, metavar="TEXT", help="What you saw in the application.")
@KEY
@CONFIG
@JSON
def attest(run: str, on: str | None, saw: str, key: Path | None, config: Path | None, *, json_: bool) -> None:
    """Say what you saw in the application after a run."""
    spoken = _project(config, key).attest(run, saw, on)
    tell(spoken, f"attested {spoken.statement.details['run']}", json_=json_)


def _project(config: Path | None, key: Path | None) -> Project:
    from backout.project import Project

    return Project.find(config, key=key)


def _usual(project: Project) -> str:
    """The environment that is meant where none is named: the one that asks for people."""
    names = [name for name, one in project.config.environments.items() if one.policy.needs_people]
    if len(names) == 1:
        return names[0]
    known = names or list(project.config.environments)
    raise UsageError("where? --on is missing", hint=f"--on ENVIRONMENT; known are: {', '.join(known)}")


def tell(spoken: Spoken, done: str, *, json_: bool) -> None:
    """Print a statement that was made."""
    statement = spoken.statement
    if json_:
        from backout.project.people_json import spoken_as_json

        show_json(spoken_as_json(spoken))
        return
    where = f" for {statement.environment}" if statement.environment else ""
    proof = "signed" if spoken.signed.signature else "unsigned: the account's name is believed"
    if spoken.key_unused:
        proof += ", and the key was not used"
    lines = [f"{done}: {statement.change} {statement.digest[:16]}{where}", f"by {spoken.person} ({proof})"]
    lines.append(f"entry {spoken.position} of the ledger")
    on = f" --on {statement.environment or 'ENV'}"
    lines.append(f"next: backout status {statement.change}{on}")
    show_text("\n".join(map(plain, lines)))


def _ticked(kind: str, tick: str | None) -> Sequence[str]:
    """The questions that are answered with yes; at a terminal each is asked."""
    from backout.cli.conversation import Conversation
    from backout.gates.checklist import checklist

    questions = checklist(kind)
    if tick == "all":
        return questions
    if tick is not None:
        numbers = [one.strip() for one in tick.split(",")]
        if not all(one.isdigit() and 1 <= int(one) <= len(questions) for one in numbers):
            raise UsageError(f"--tick takes numbers from 1 to {len(questions)}, or all", hint=_listed(questions))
        return [questions[int(one) - 1] for one in numbers]
    if not is_terminal():
        raise UsageError(
            "the checklist is not answered", hint=f"--tick all, once all of it is so:\n{_listed(questions)}"
        )
    talk = Conversation(yes=False)
    show_error(f"{kind}:")
    return [one for one in questions if talk.confirm(one)]


def _listed(questions: Sequence[str]) -> str:
    return "\n".join(f"  {number}. {one}" for number, one in enumerate(questions, start=1))
