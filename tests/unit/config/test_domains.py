"""Domains: what loads, and what their operator reads of each fault."""

from pathlib import Path

import pytest

from openlimit_server.config.configuration import ConfigurationFiles
from openlimit_server.config.faults import ConfigurationError

POLICIES = """
policies:
  - {name: openai, models: ["*"], limits: {requests: 9/minute, tokens: 90/minute}}
  - {name: line, models: ["*"], limits: {requests: 9/minute}, concurrent: 3}
domains:
  - domain: llm
    descriptors:
"""
HEAD = "domain: d\ndescriptors:\n"
RATE_LIMIT = "  - key: k\n    rate_limit:\n"


def refusal(file: Path, **options: Path) -> str:
    """The message, without the folder."""
    with pytest.raises(ConfigurationError) as caught:
        ConfigurationFiles(options.get("path"), options.get("domains")).load()
    return str(caught.value).replace(f"{file.parent}/", "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "edge.yaml:1: expected a mapping with domain: and descriptors:, not an empty value"),
        ("- a", "edge.yaml:1: expected a mapping with domain: and descriptors:, not a list"),
        ("descriptors: []", "edge.yaml: domain: is required: a domain's name, such as edge"),
        ("domain: ''", "edge.yaml:1: domain: expected a domain's name, such as edge, not ''"),
        ("domain: d\ndomain: e", "edge.yaml:2: has 'domain' a second time"),
        ("domain: d\ndescriptor: []", "edge.yaml:2: descriptor: is not a field that openlimit knows"
         "; write descriptors"),
        ("domain: d\ndescriptors: k", "edge.yaml:2: descriptors: expected a list of descriptors"),
        (HEAD + "  - k", "edge.yaml:3: descriptors[0]: expected a descriptor with its key"),
        (HEAD + "  - value: v", "edge.yaml:3: descriptors[0].key: is required"),
        (HEAD + "  - key: k\n    ratelimit: {}", "edge.yaml:4: descriptors[0].ratelimit: is not a "
         "field that openlimit knows; write rate_limit"),
        (HEAD + "  - key: k\n    descriptors:\n      - {key: a, vlaue: b}", "edge.yaml:5: "
         "descriptors[0].descriptors[0].vlaue: is not a field that openlimit knows; write value"),
        (HEAD + "  - key: k\n  - key: k", "edge.yaml:2: descriptors: has the key 'k' and no value "
         "twice; keep one of them"),
        (HEAD + "  - {key: k, value: v}\n  - {key: k, value: v}", "edge.yaml:2: descriptors: has "
         "the key 'k' and the value 'v' twice"),
        (HEAD + "  - {key: k, shadow_mode: maybe}", "edge.yaml:3: descriptors[0].shadow_mode: "
         "expected true or false, not 'maybe'"),
        (HEAD + "  - {key: k, value: v, share_threshold: true}", "edge.yaml:3: "
         "descriptors[0].share_threshold: is for a value that ends in *"),
        (HEAD + "  - {key: k, limit: 5 per min}", "edge.yaml:3: descriptors[0].limit: expected an "
         "amount per second, minute, hour, day or duration (1ms to 3650d), and if need be a burst, "
         "such as 90000/minute, 500/10s or 90000/minute burst 10s, not '5 per min'; write 5/m"),
        (HEAD + "  - {key: k, rate_limit: {unlimited: true}, limit: 5/minute}", "edge.yaml:3: "
         "descriptors[0].limit: stands beside rate_limit; leave out one of them"),
        (HEAD + RATE_LIMIT + "      unit: fortnight", "edge.yaml:5: "
         "descriptors[0].rate_limit.unit: expected one of second, minute, hour, day, week, month, "
         "year, not 'fortnight'"),
        (HEAD + RATE_LIMIT + "      unit: minutes\n      requests_per_unit: 1", "edge.yaml:5: "
         "descriptors[0].rate_limit.unit: expected one of second, minute, hour, day, week, month, "
         "year, not 'minutes'; write minute"),
        (HEAD + RATE_LIMIT + "      unit: minute", "edge.yaml:4: descriptors[0].rate_limit: needs "
         "a unit and requests_per_unit"),
        (HEAD + RATE_LIMIT + "      {unit: minute, requests_per_unit: -1}", "edge.yaml:5: "
         "descriptors[0].rate_limit.requests_per_unit: expected a whole number"),
        (HEAD + RATE_LIMIT + "      {unit: minute, requests_per_unit: 5000000000}", "edge.yaml:5: "
         "descriptors[0].rate_limit.requests_per_unit: expected a whole number from 1 to 42949"),
        (HEAD + RATE_LIMIT + "      {unit: minute, unlimited: true}", "edge.yaml:5: "
         "descriptors[0].rate_limit.unlimited: is true beside a unit"),
        (HEAD + RATE_LIMIT + "      {unlimited: true, requests_per_minute: 5}", "edge.yaml:5: "
         "descriptors[0].rate_limit.requests_per_minute: is not a field that openlimit knows; "
         "write requests_per_unit"),
        (HEAD + RATE_LIMIT + "      {unlimited: true, name: a, replaces: [{name: a}]}",
         "edge.yaml:5: descriptors[0].rate_limit.replaces: names the limit itself"),
        (HEAD + RATE_LIMIT + "      {unlimited: true, replaces: [{}]}", "edge.yaml:5: "
         "descriptors[0].rate_limit.replaces[0].name: is required"),
        (HEAD + RATE_LIMIT + "      {unlimited: true, replaces: [a]}", "edge.yaml:5: "
         "descriptors[0].rate_limit.replaces[0]: expected the name of another limit"),
        (HEAD + RATE_LIMIT + "      {unlimited: true, replaces: [{name: }]}", "edge.yaml:5: "
         "descriptors[0].rate_limit.replaces[0].name: expected the name of a limit such as gener"),
        (HEAD + "  &a\n  - key: k\n    descriptors: *a", "edge.yaml:4: "
         "descriptors[0].descriptors[0]: expected a descriptor with its key"),
    ],
)  # fmt: skip
def test_each_fault_of_a_file_of_domains_has_a_message(file: Path, text: str, message: str) -> None:
    """With the file, the line, the field, what was expected and what came instead."""
    edge = file.with_name("edge.yaml")
    edge.write_text(text)
    assert message in refusal(file, domains=edge)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("      - {key: k, policy: {name: opnai}}", "limits.yaml:8: "
         "domains[0].descriptors[0].policy.name: there is no policy 'opnai'; write openai"),
        ("      - {key: k, policy: {name: zzz}}", "there is no policy 'zzz'; there are openai, l"),
        ("      - {key: k, policy: {name: line}}", "policy.name: the policy line has "
         "concurrent, and a proxy does not say when a call ends"),
        ("      - {key: k, policy: {name: openai, unit: images}}", "policy.unit: images is no unit "
         "that the policy openai limits; it has requests, tokens"),
        ("      - {key: k, policy: {name: openai}, limit: 5/minute}", "domains[0].descriptors[0]."
         "policy: stands beside limit"),
        ("      - {key: k}\n  - domain: llm", "limits.yaml:9: domains[1].domain: a domain named "
         "'llm' is configured already"),
        ("      - {key: k, models: []}", "domains[0].descriptors[0].models: is not a field that "
         "openlimit knows; check its spelling: there are key, value"),
    ],
)  # fmt: skip
def test_each_fault_of_the_domains_of_a_file_of_policies_has_a_message(
    file: Path, text: str, message: str
) -> None:
    """A descriptor may name policies of the same file, and none whose calls take slots."""
    file.write_text(POLICIES + text)
    assert message in refusal(file, path=file)


def test_all_files_of_a_folder_are_read(file: Path, tmp_path: Path) -> None:
    """And the domains beside the policies; what no file is for domains is left out."""
    file.write_text(POLICIES + "      - {key: k, limit: 500/10s burst 1s}")
    folder = tmp_path / "domains"
    folder.mkdir()
    (folder / "b.yaml").write_text(HEAD + "  - {key: k, value: '', rate_limit: {unlimited: Yes}}")
    (folder / "a.yml").write_text("---\ndomain: a\ndescriptors:\n")
    (folder / "README.md").write_text("no YAML")
    domains = ConfigurationFiles(file, folder).load().domains
    assert [each.domain for each in domains] == ["llm", "a", "d"]
    assert domains[2].descriptors[0].value is None
    [limit] = [each.limit for each in domains[0].descriptors]
    assert limit is not None
    assert (limit.amount, limit.period, limit.capacity) == (500, 10e6, 50)


def test_a_domain_is_configured_once(file: Path, tmp_path: Path) -> None:
    """Whatever files it stands in."""
    (tmp_path / "a.yaml").write_text("domain: d")
    (tmp_path / "b.yaml").write_text("domain: d")
    message = refusal(file, domains=tmp_path)
    assert message.startswith("b.yaml:1: domain: a domain named 'd' is configured already")


def test_a_folder_without_files_is_a_fault(file: Path, tmp_path: Path) -> None:
    """So is a file that is not there."""
    assert "has no *.yaml" in refusal(file, domains=tmp_path)
    message = refusal(file, domains=tmp_path / "no.yaml")
    assert message == "no.yaml: cannot be read: No such file or directory"
