"""Sentences and cells that people read, made from the admin API's answers. Pure; called by `operate` and `show`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

#: A route, a decision, one variant of a route: objects of the admin API.
Answer = dict[str, Any]


#: Gates that are no hook's.
_WAITS = {"pause": "a resume"}


def result(done: str, answer: Answer) -> str:
    """What a verb led to: `rolled back: 0% on v2, applied by 4 of 4 workers`."""
    workers = f"{answer['workers']} worker{'' if answer['workers'] == 1 else 's'}"
    return f"{done}: {_place(answer)}, applied by {answer['applied_by']} of {workers}"


def _place(answer: Answer) -> str:
    if answer["phase"] == "promoted":
        return f"100% on {answer['stable']['pool']}, which is stable now"
    if answer["canary"] is None:
        return f"100% on {answer['stable']['pool']}"
    share = f"{answer['weight_percent']:g}% on {answer['canary']['pool']}"
    if (now := answer.get("weight_in_force_percent", answer["weight_percent"])) < answer["weight_percent"]:
        share += f" as soon as it is saved, {now:g}% now"
    gate = f", waits for {_WAITS.get(answer['gate'], answer['gate'])}" if answer.get("gate") else ""
    match answer["phase"]:
        case "progressing" | "paused":
            return f"{share} (step {step(answer)}){gate}"
        case "baking":
            return f"{share} (bake){gate}"
    return share


def step(answer: Answer) -> str:
    """`2 of 4`, or a dash when no step is in progress."""
    return f"{answer['step']} of {answer['steps']}" if answer["phase"] in ("progressing", "paused") else "-"


def findings(answer: Answer) -> list[str]:
    """Why a route is where it is, how far it has got there, and what the analysis says: a line for each."""
    phase, lines = answer["phase"], []
    if answer["reason"] and phase in ("paused", "rolled_back", "promoted"):
        lines.append(f"{phase.replace('_', ' ')}: {answer['reason']}")
    if phase in ("progressing", "paused", "baking") and answer.get("plan"):
        lines.append(f"plan: {ladder(answer)}")
    if phase in ("progressing", "baking"):
        share = f" ({min(answer['held'] / answer['hold'], 1):.0%})" if answer["hold"] else ""
        lines.append(f"held for {answer['held']:.0f} of {answer['hold']:.0f} s{share}")
    if answer.get("gate") and phase in ("progressing", "paused", "baking"):
        lines.append(f"waits: {_GATES.get(answer['gate'], answer['gate'])}")
    lines += hooks(answer.get("hooks") or {})
    if answer["frozen"]:
        lines.append("frozen: stable itself is bad; goes on by itself when it is well again")
    if answer["users"]["exposed"] and phase not in ("idle", "promoted"):
        lines.append(f"users exposed: {answer['users']['exposed']:,}, hurt: {answer['users']['hurt']:,}")
    if answer["verdict"] and phase in ("progressing", "paused", "baking"):
        lines.append(f"{answer['verdict']}: {answer['sentence']}")
    if (deploy := answer.get("deploy") or {}).get("state") in ("handing_over", "pending"):
        lines.append(f"deploy of {deploy['canary']}, {deploy['state'].replace('_', ' ')}: {deploy['detail']}")
    if not answer["saved"]:
        lines.append("not saved: the state cannot be written; see the proxy's log")
    return lines


def hooks(answer: Answer) -> list[str]:
    """Hooks that are waited for, those that are not heard, and notifications that could not be delivered: a line for each."""
    lines = [
        f"hook {wait['hook']} ({wait['type']}): {wait['answer'] or 'has not answered yet'}"
        for wait in answer.get("waiting", ())
        if not wait["yes"]
    ]
    lines += [f"rollback hook {name} does not answer: {what}" for name, what in answer.get("unheard", {}).items()]
    told = answer.get("notifications") or {}
    if told.get("pending") and (last := told.get("last_error")):
        wait = f"{told['pending']} {'notification waits' if told['pending'] == 1 else 'notifications wait'}"
        lines.append(f"{wait}; hook {last['hook']}: {last['error']}")
    return lines


#: A gate, and how it is opened.
_GATES = {"pause": "a pause of the plan; resume or promote goes on"} | {
    gate: f"the hook {gate} has not said yes yet; promote goes on without it"
    for gate in ("confirm_rollout", "pre_rollout", "confirm_step", "confirm_promotion")
}


def ladder(answer: Answer) -> str:
    """The plan with the place where the rollout is: `1% > [5%] > 25% > bake`; a pause after a step is `||`."""
    plan, baking = answer["plan"], answer["phase"] == "baking"
    rungs = []
    for number, rung in enumerate(plan["steps"], 1):
        weight = f"{rung['weight_percent']:g}%"
        here = number == answer["step"] and not baking
        rungs.append((f"[{weight}]" if here else weight) + ("" if rung.get("pause") is None else " ||"))
    return " > ".join([*rungs, "[bake]" if baking else "bake"])


def cell(variant: Answer, name: str, form: str) -> str:
    """One figure of a variant, or a dash while it is not known."""
    value = variant.get(name)
    return "-" if value is None else form.format(value)


def moment(wall: float) -> str:
    """Local time of a wall clock reading, to the second."""
    return datetime.fromtimestamp(wall, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")
