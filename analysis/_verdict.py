"""A verdict of the regression check as Markdown, JSON and JUnit XML."""

import json
import math
from xml.etree import ElementTree

from analysis._compare import Finding, Verdict

WORDS = {0: "agrees with the baseline", 1: "regression", 2: "not comparable"}


def markdown(verdict: Verdict) -> str:
    """Return one table of all findings, what could not be compared, and the rule."""
    parts = [f"### Regression check: {WORDS[verdict.code]}"]
    unsure = {(one.space, one.label) for one in verdict.problems}
    if verdict.findings:
        header = ("", "space", "method", "quantity", "baseline", "now", "change", "p (Holm)", "seeds")
        lines = [
            header,
            ("---",) * len(header),
            *(_row(one, (one.space, one.label) in unsure) for one in verdict.findings),
        ]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    problems = [f"- {one.label} on {one.space}: not comparable: {one.reason}" for one in verdict.problems]
    parts += ["\n".join(problems)] if problems else []
    parts += ["\n".join(f"- {note}" for note in verdict.notes)] if verdict.notes else []
    return "\n\n".join([*parts, rule(verdict)]) + "\n"


def rule(verdict: Verdict) -> str:
    """Return in one sentence when a quantity counts as changed."""
    limits = verdict.limits
    return (
        f"Changed: λ in magnitude by more than a factor of {limits.factor:g}, regret by more than "
        f"{100 * limits.regret:g} points, shares by more than {100 * limits.share:g} points, and significant at "
        f"{limits.alpha:g} over the whole check (permutation test over seeds, Holm)."
    )


def _mark(one: Finding, undecided: bool) -> str:
    if one.changed:
        return "**changed**"
    if math.isnan(one.p_holm):
        return "not tested"
    return "undecided" if undecided and one.varies else "agrees"


def _row(one: Finding, undecided: bool) -> tuple[str, ...]:
    mark = _mark(one, undecided)
    seeds = f"{one.n_after}, paired" if one.paired else f"{one.n_after} against {one.n_before}"
    values = (shown(one, one.before), shown(one, one.after), change(one))
    return mark, one.space, one.label, one.quantity.title, *values, f"{one.p_holm:.2g}", seeds


def shown(one: Finding, value: float) -> str:
    """Return a mean as printed: a number for logarithms, else percent."""
    return f"{math.exp(value):.3g}" if one.quantity.logarithmic else f"{100 * value:.2f} %"


def change(one: Finding) -> str:
    """Return a change as printed: a factor for logarithms, else points."""
    return f"× {math.exp(one.change):.3g}" if one.quantity.logarithmic else f"{100 * one.change:+.2f} points"


def as_json(verdict: Verdict) -> str:
    """Return everything of a verdict, means and changes as stored: natural logarithms of factors where so marked."""
    findings = [
        {
            "space": one.space, "label": one.label, "quantity": one.quantity.name,
            "logarithmic": one.quantity.logarithmic, "before": _plain(one.before), "after": _plain(one.after),
            "change": _plain(one.change), "threshold": one.quantity.threshold(verdict.limits), "p": _plain(one.p),
            "p_holm": _plain(one.p_holm), "seeds_before": one.n_before, "seeds_after": one.n_after,
            "paired": one.paired, "changed": one.changed,
        }
        for one in verdict.findings
    ]  # fmt: skip
    problems = [{"space": one.space, "label": one.label, "reason": one.reason} for one in verdict.problems]
    content = {"verdict": WORDS[verdict.code], "exit_code": verdict.code, "alpha": verdict.limits.alpha}
    content |= {"findings": findings, "problems": problems, "notes": list(verdict.notes)}
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def junit(verdict: Verdict) -> str:
    """Return a test suite a space and label, a test a quantity: failed where it changed, an error if incomparable."""
    root = ElementTree.Element("testsuites", name="regression")
    suites: dict[tuple[str, str], ElementTree.Element] = {}
    places = [(finding.space, finding.label) for finding in verdict.findings]
    places += [(problem.space, problem.label) for problem in verdict.problems]
    for space, label in dict.fromkeys(places):
        suites[space, label] = ElementTree.SubElement(root, "testsuite", name=f"{space}.{label}")
    for finding in verdict.findings:
        case = _case(suites[finding.space, finding.label], finding.quantity.name)
        if finding.changed:
            text = f"{finding.quantity.title}: {shown(finding, finding.before)} → {shown(finding, finding.after)}"
            ElementTree.SubElement(case, "failure", message=f"{text} ({change(finding)}, p = {finding.p_holm:.2g})")
        elif math.isnan(finding.p_holm):
            ElementTree.SubElement(case, "skipped", message="too few seeds have a value")
    for problem in verdict.problems:
        case = _case(suites[problem.space, problem.label], "comparable")
        ElementTree.SubElement(case, "error", message=problem.reason)
    for suite in suites.values():
        kinds = {"failures": "failure", "errors": "error", "skipped": "skipped"}
        suite.attrib |= {"tests": str(len(suite))}
        suite.attrib |= {name: str(len(suite.findall(f"testcase/{kind}"))) for name, kind in kinds.items()}
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode", xml_declaration=True) + "\n"


def _case(suite: ElementTree.Element, name: str) -> ElementTree.Element:
    return ElementTree.SubElement(suite, "testcase", classname=suite.attrib["name"], name=name)
