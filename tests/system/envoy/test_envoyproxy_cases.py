"""What the documentation and the integration tests of envoyproxy/ratelimit promise, case by case.

The files are of the shapes that it documents. docs/envoy.md has the table of what is the same and
what is not.
"""

from google.protobuf.json_format import MessageToDict

from tests.support.clock import FakeClock
from tests.support.proxy_requests import OK, OVER, codes, descriptor, remaining, request
from tests.system.envoy.conftest import Service

Entries = tuple[tuple[str, str], ...]


async def passed(service: Service, domain: str, *descriptors: Entries, of: int) -> int:
    """How many of so many requests in a row are let through; the first are."""
    asked = request(domain, *(descriptor(*entries) for entries in descriptors))
    overall = [codes(await service.ask(asked))[0] for _ in range(of)]
    assert overall == [OK] * overall.count(OK) + [OVER] * overall.count(OVER)
    return overall.count(OK)


async def test_values_of_a_key_have_limits_of_their_own(service: Service) -> None:
    """README, example 1: other values of the key, other domains and more entries have none."""
    service.configure("""
        domain: mongo_cps
        descriptors:
          - key: database
            value: users
            rate_limit:
              unit: second
              requests_per_unit: 500

          - key: database
            value: default
            rate_limit:
              unit: second
              requests_per_unit: 500
    """)
    for value in ("users", "default"):
        assert await passed(service, "mongo_cps", (("database", value),), of=502) == 500
    assert await passed(service, "mongo_cps", (("database", "other"),), of=502) == 502
    assert await passed(service, "elsewhere", (("database", "users"),), of=502) == 502


MESSAGING = """
domain: messaging
descriptors:
  # Only allow 5 marketing messages a day
  - key: message_type
    value: marketing
    descriptors:
      - key: to_number
        rate_limit:
          unit: day
          requests_per_unit: 5

  # Only allow 100 messages a day to any unique phone number
  - key: to_number
    rate_limit:
      unit: day
      requests_per_unit: 100
"""


async def test_nested_descriptors_limit_each_value(service: Service) -> None:
    """README, example 2: a key without a value has a limit for each; several descriptors of one
    request all have to fit. What the nested one refuses takes nothing of the other."""
    service.configure(MESSAGING)
    one, two = ("to_number", "2061111111"), ("to_number", "2062222222")
    marketing = ("message_type", "marketing")
    assert await passed(service, "messaging", (marketing, one), (one,), of=8) == 5
    assert await passed(service, "messaging", (marketing, two), (two,), of=8) == 5
    assert await passed(service, "messaging", (one,), of=100) == 95
    assert await passed(service, "messaging", (marketing,), of=101) == 101


async def test_the_most_specific_match_counts(service: Service) -> None:
    """README, example 3: a value before the key alone, wherever it stands; 0 bans it."""
    service.configure("""
        domain: edge_proxy_per_ip
        descriptors:
          - key: remote_address
            rate_limit:
              unit: second
              requests_per_unit: 10

          # Black list IP
          - key: remote_address
            value: 50.0.0.5
            rate_limit:
              unit: second
              requests_per_unit: 0
    """)
    for address, many in (("50.0.0.1", 10), ("50.0.0.2", 10), ("50.0.0.5", 0)):
        entries = (("remote_address", address),)
        assert await passed(service, "edge_proxy_per_ip", entries, of=12) == many
    banned = request("edge_proxy_per_ip", descriptor(("remote_address", "50.0.0.5")))
    response = await service.ask(banned)
    assert MessageToDict(response.statuses[0]) == {
        "code": "OVER_LIMIT",
        "currentLimit": {"unit": "SECOND"},
    }


async def test_as_many_entries_as_levels_match(service: Service) -> None:
    """README, example 4: fewer or more do not."""
    limit = "rate_limit: {requests_per_unit: 3, unit: second}"
    entries = (("key", "value"), ("subkey", "subvalue"))
    service.configure(f"domain: d\ndescriptors: [{{key: key, value: value, {limit}}}]")
    assert await passed(service, "d", entries, of=5) == 5
    below = f"descriptors: [{{key: subkey, {limit}}}]"
    service.configure(f"domain: d\ndescriptors: [{{key: key, value: value, {below}}}]")
    assert await passed(service, "d", entries, of=5) == 3
    assert await passed(service, "d", entries[:1], of=5) == 5
    assert await passed(service, "d", (*entries, ("more", "x")), of=5) == 5


async def test_unlimited_is_told_from_unknown(service: Service) -> None:
    """README, example 5: it has as much remaining as the protocol can tell."""
    service.configure("""
        domain: internal
        descriptors:
          - key: ldap
            rate_limit:
              unlimited: true

          - key: azure
            rate_limit:
              unit: minute
              requests_per_unit: 100
    """)
    asked = request("internal", *map(descriptor, [("ldap", "x"), ("azure", "x"), ("other", "x")]))
    response = await service.ask(asked)
    assert codes(response) == [OK] * 4
    assert remaining(response) == [2**32 - 1, 99, 0]


async def test_shadow_mode_lets_all_through(service: Service) -> None:
    """README, example 6: of one value; the other is limited."""
    service.configure("""
        domain: example6
        descriptors:
          - key: service
            descriptors:
              - key: user
                value: user-a
                rate_limit:
                  requests_per_unit: 10
                  unit: second
                shadow_mode: true
              - key: user
                value: user-b
                rate_limit:
                  requests_per_unit: 20
                  unit: second
    """)
    for user, many in (("user-a", 25), ("user-b", 20)):
        entries = (("service", "auth-service"), ("user", user))
        assert await passed(service, "example6", entries, of=25) == many


async def test_a_limit_that_is_replaced_is_not_charged(service: Service) -> None:
    """README, example 7: each alone holds; together, the one that replaces."""
    service.configure("""
        domain: example7
        descriptors:
          - key: key_1
            value: value_1
            descriptors:
              - key: user
                value: bkthomps
                rate_limit:
                  name: specific_limit
                  requests_per_unit: 5
                  unit: second
          - key: key_2
            value: value_2
            descriptors:
              - key: user
                value: bkthomps
                rate_limit:
                  replaces:
                    - name: specific_limit
                  requests_per_unit: 10
                  unit: second
    """)
    user = ("user", "bkthomps")
    specific, general = (("key_1", "value_1"), user), (("key_2", "value_2"), user)
    assert await passed(service, "example7", specific, general, of=12) == 10
    assert await passed(service, "example7", specific, of=12) == 5


async def test_several_limits_can_be_replaced(service: Service, time: FakeClock) -> None:
    """The script replaces.sh: by one, which leaves theirs as they were."""
    service.configure("""
        domain: rl
        descriptors:
          - key: category
            value: account
            rate_limit:
              replaces:
                - name: of_bar
                - name: of_destination
              unit: minute
              requests_per_unit: 4
          - key: foo
            descriptors:
              - key: bar
                value: banned
                rate_limit: {name: banned, unit: minute, requests_per_unit: 0}
              - key: bar
                rate_limit: {name: of_bar, unit: minute, requests_per_unit: 1}
          - key: destination
            rate_limit: {name: of_destination, unit: minute, requests_per_unit: 2}
          - key: override
            rate_limit: {replaces: [{name: banned}], unit: minute, requests_per_unit: 2}
    """)
    foo, destination = (("foo", "f"), ("bar", "b")), (("destination", "d"),)
    account = (("category", "account"),)
    assert await passed(service, "rl", foo, destination, account, of=6) == 4
    assert await passed(service, "rl", foo, of=3) == 1
    assert await passed(service, "rl", destination, of=3) == 2
    banned = (("foo", "f"), ("bar", "banned"))
    assert await passed(service, "rl", banned, of=2) == 0
    assert await passed(service, "rl", banned, (("override", "o"),), of=4) == 2


async def test_metrics_options_change_no_decision(service: Service) -> None:
    """README, examples 8 and 10: the values that are not listed have a limit each."""
    service.configure("""
        domain: example8
        descriptors:
          - key: key1
            detailed_metric: true
            rate_limit:
              unit: minute
              requests_per_unit: 10
          - key: key1
            value: value1
            value_to_metric: true
            rate_limit:
              unit: minute
              requests_per_unit: 20
    """)
    for value, many in (("unspecified", 10), ("unspecified2", 10), ("value1", 20)):
        assert await passed(service, "example8", (("key1", value),), of=22) == many


async def test_a_star_at_the_end_matches_all_that_begin_so(service: Service) -> None:
    """README, example 9: each value has a limit of its own; elsewhere in a value it is a star."""
    service.configure("""
        domain: example9
        descriptors:
          - key: key1
            value: value*
            rate_limit:
              unit: minute
              requests_per_unit: 20
          - key: key1
            value: value_3
            rate_limit: {unit: minute, requests_per_unit: 1}
          - key: mid
            value: bar*b
            rate_limit: {unit: minute, requests_per_unit: 20}
          - key: nested
            value: a*
            descriptors:
              - key: key2
                value: b*
                rate_limit: {unit: minute, requests_per_unit: 2}
    """)
    for value, many in (("value_1", 20), ("value_2", 20), ("value_3", 1), ("valu", 22)):
        assert await passed(service, "example9", (("key1", value),), of=22) == many
    assert await passed(service, "example9", (("mid", "bar12b"),), of=22) == 22
    assert await passed(service, "example9", (("nested", "a1"), ("key2", "b1")), of=3) == 2


async def test_values_that_match_share_a_threshold_if_told(service: Service) -> None:
    """README, example 11, and the integration test of it; also of a limit below the value."""
    service.configure("""
        domain: example11
        descriptors:
          - key: files
            value: files/*
            share_threshold: true
            rate_limit:
              unit: hour
              requests_per_unit: 10
          - key: files_no_share
            value: files_no_share/*
            share_threshold: false
            rate_limit:
              unit: hour
              requests_per_unit: 10
          - key: route
            value: api/*
            share_threshold: true
            value_to_metric: true
            descriptors:
              - key: method
                rate_limit:
                  unit: minute
                  requests_per_unit: 60
    """)
    assert await passed(service, "example11", (("files", "files/a.pdf"),), of=5) == 5
    assert await passed(service, "example11", (("files", "files/b.csv"),), of=5) == 5
    assert await passed(service, "example11", (("files", "files/c.txt"),), of=1) == 0
    for name in "ab":
        entries = (("files_no_share", f"files_no_share/{name}"),)
        assert await passed(service, "example11", entries, of=12) == 10
    one, two = ((("route", f"api/{name}"), ("method", "GET")) for name in "ab")
    assert await passed(service, "example11", one, of=40) == 40
    assert await passed(service, "example11", two, of=40) == 20


async def test_the_basic_integration_test(service: Service) -> None:
    """One hit of 50 a second leaves 49; of 25 requests, 20 a minute pass; of 15 requests for two
    limits 10 do, and what the second refuses takes nothing of the first, where it did there."""
    service.configure("""
        domain: another
        descriptors:
          - {key: key1, rate_limit: {unit: second, requests_per_unit: 50}}
          - {key: key2, rate_limit: {unit: minute, requests_per_unit: 20}}
          - {key: key3, rate_limit: {unit: hour, requests_per_unit: 10}}
    """)
    response = await service.ask(request("foo", descriptor(("hello", "world"))))
    assert MessageToDict(response) == {"overallCode": "OK", "statuses": [{"code": "OK"}]}
    response = await service.ask(request("another", descriptor(("key1", "foo"))))
    assert (codes(response), remaining(response)) == ([OK, OK], [49])
    for i in range(25):
        response = await service.ask(request("another", descriptor(("key2", "1"))))
        assert codes(response) == ([OK, OK] if i < 20 else [OVER, OVER])
        assert remaining(response) == [max(0, 19 - i)]
    for i in range(15):
        both = request("another", descriptor(("key2", "2")), descriptor(("key3", "2")))
        response = await service.ask(both)
        assert codes(response) == ([OK, OK, OK] if i < 10 else [OVER, OK, OVER])
        assert remaining(response) == [max(10, 19 - i), max(0, 9 - i)]


async def test_the_quota_script(service: Service) -> None:
    """The scripts quota.sh and token-quota.sh: nothing is refused in quota_mode, and the metadata
    name the quotas that are spent; without it, a peek is refused once the limit is used up: one
    request earlier than there, where 3 of 2 a minute pass."""
    limit = "rate_limit: {unit: minute, requests_per_unit: 2}"
    service.configure(f"""
        domain: quota
        descriptors:
          - {{key: service, value: service_1, quota_mode: true, {limit}}}
          - {{key: service, value: service_2, quota_mode: true, {limit}}}
          - {{key: tokens, after_response: true, {limit}}}
    """)
    both = request("quota", *(descriptor(("service", f"service_{i}")) for i in (1, 2)))
    responses = [await service.ask(both) for _ in range(3)]
    assert [codes(each)[0] for each in responses] == [OK, OK, OK]
    spent = [MessageToDict(each.dynamic_metadata).get("quotaModeViolations") for each in responses]
    assert spent == [None, None, [0.0, 1.0]]
    answers = []
    for _ in range(4):
        peek = request("quota", descriptor(("tokens", "x"), hits=0))
        answers.append(codes(await service.ask(peek))[0])
        if answers[-1] == OK:
            await service.ask(request("quota", descriptor(("tokens", "x"), hits=1)))
    assert answers == [OK, OK, OVER, OVER]


async def test_a_limit_of_the_request_needs_no_configuration(service: Service) -> None:
    """Of TestConfigLimitOverride: it holds in place of the configured one, in its domain only."""
    service.configure(MESSAGING)
    for entries in ((("to_number", "1"),), (("other", "1"), ("more", "2"))):
        asked = request("messaging", descriptor(*entries, limit=(10, "DAY")), hits=10)
        assert codes(await service.ask(asked)) == [OK, OK]
        assert codes(await service.ask(asked)) == [OVER, OVER]
    asked = request("elsewhere", descriptor(("to_number", "1"), limit=(1, "DAY")), hits=2)
    assert codes(await service.ask(asked)) == [OK, OK]


async def test_a_value_without_a_limit_is_let_through(service: Service) -> None:
    """Of the tests of its configuration: although its key has one; and what is nested below a limit
    has another."""
    service.configure("""
        domain: test-domain
        descriptors:
          - key: key2
            rate_limit: {unit: minute, requests_per_unit: 20}
          - key: key2
            value: value3
          - key: key5
            value: value5
            rate_limit: {unit: day, requests_per_unit: 15}
            descriptors:
              - key: subkey5
                value: subvalue5
                rate_limit: {unit: day, requests_per_unit: 25}
    """)
    for value, many in (("other", 20), ("value3", 30)):
        assert await passed(service, "test-domain", (("key2", value),), of=30) == many
    outer, inner = ("key5", "value5"), ("subkey5", "subvalue5")
    assert await passed(service, "test-domain", (outer,), of=30) == 15
    assert await passed(service, "test-domain", (outer, inner), of=30) == 25
    assert await passed(service, "test-domain", (outer, ("subkey5", "x")), of=30) == 30


async def test_the_script_of_several_services_with_token_quotas(service: Service) -> None:
    """multiservice-tokenquota.sh: the metadata of a peek name the services whose quota is spent,
    and a response charges the service that has served it. 1 and 2 a minute are served, not 2 and
    3 as there."""
    service.configure("""
        domain: quota
        descriptors:
          - key: service
            value: service_1
            quota_mode: true
            rate_limit: {unit: minute, requests_per_unit: 1}
          - key: service
            value: service_2
            quota_mode: true
            rate_limit: {unit: minute, requests_per_unit: 2}
    """)
    names = ("service_1", "service_2")
    served = []
    for _ in range(5):
        peeks = [descriptor(("service", name), hits=0) for name in names]
        response = await service.ask(request("quota", *peeks))
        assert codes(response)[0] == OK
        spent = MessageToDict(response.dynamic_metadata).get("quotaModeViolations", [])
        left = [name for i, name in enumerate(names) if i not in spent]
        if left:
            await service.ask(request("quota", descriptor(("service", left[0]), hits=1)))
        served.append(left[0] if left else None)
    assert served == ["service_1", "service_2", "service_2", None, None]
