import datetime

from google.protobuf import duration_pb2 as _duration_pb2
from google.protobuf import timestamp_pb2 as _timestamp_pb2
from openlimit.v1 import rate_limit_pb2 as _rate_limit_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Verdict(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    VERDICT_UNSPECIFIED: _ClassVar[Verdict]
    VERDICT_STARTS: _ClassVar[Verdict]
    VERDICT_WAITS: _ClassVar[Verdict]
    VERDICT_QUEUES: _ClassVar[Verdict]
    VERDICT_REFUSED: _ClassVar[Verdict]
    VERDICT_NEVER: _ClassVar[Verdict]
VERDICT_UNSPECIFIED: Verdict
VERDICT_STARTS: Verdict
VERDICT_WAITS: Verdict
VERDICT_QUEUES: Verdict
VERDICT_REFUSED: Verdict
VERDICT_NEVER: Verdict

class LimitInfo(_message.Message):
    __slots__ = ("unit", "amount", "period", "capacity")
    UNIT_FIELD_NUMBER: _ClassVar[int]
    AMOUNT_FIELD_NUMBER: _ClassVar[int]
    PERIOD_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    unit: str
    amount: float
    period: _duration_pb2.Duration
    capacity: float
    def __init__(self, unit: _Optional[str] = ..., amount: _Optional[float] = ..., period: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., capacity: _Optional[float] = ...) -> None: ...

class Fill(_message.Message):
    __slots__ = ("limit", "level")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    LEVEL_FIELD_NUMBER: _ClassVar[int]
    limit: LimitInfo
    level: float
    def __init__(self, limit: _Optional[_Union[LimitInfo, _Mapping]] = ..., level: _Optional[float] = ...) -> None: ...

class NodeInfo(_message.Message):
    __slots__ = ("labels", "depth", "fills", "weight", "share", "slots", "running", "waiting", "wait", "limited_by", "paused")
    class LabelsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    LABELS_FIELD_NUMBER: _ClassVar[int]
    DEPTH_FIELD_NUMBER: _ClassVar[int]
    FILLS_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    RUNNING_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    LIMITED_BY_FIELD_NUMBER: _ClassVar[int]
    PAUSED_FIELD_NUMBER: _ClassVar[int]
    labels: _containers.ScalarMap[str, str]
    depth: int
    fills: _containers.RepeatedCompositeFieldContainer[Fill]
    weight: float
    share: float
    slots: int
    running: int
    waiting: int
    wait: _duration_pb2.Duration
    limited_by: str
    paused: _duration_pb2.Duration
    def __init__(self, labels: _Optional[_Mapping[str, str]] = ..., depth: _Optional[int] = ..., fills: _Optional[_Iterable[_Union[Fill, _Mapping]]] = ..., weight: _Optional[float] = ..., share: _Optional[float] = ..., slots: _Optional[int] = ..., running: _Optional[int] = ..., waiting: _Optional[int] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., limited_by: _Optional[str] = ..., paused: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("call",)
    CALL_FIELD_NUMBER: _ClassVar[int]
    call: _rate_limit_pb2.AcquireRequest
    def __init__(self, call: _Optional[_Union[_rate_limit_pb2.AcquireRequest, _Mapping]] = ...) -> None: ...

class ExplainResponse(_message.Message):
    __slots__ = ("policy", "mode", "path", "costs", "verdict", "wait", "held_at", "limited_by", "reason")
    class CostsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    POLICY_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    COSTS_FIELD_NUMBER: _ClassVar[int]
    VERDICT_FIELD_NUMBER: _ClassVar[int]
    WAIT_FIELD_NUMBER: _ClassVar[int]
    HELD_AT_FIELD_NUMBER: _ClassVar[int]
    LIMITED_BY_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    policy: str
    mode: str
    path: _containers.RepeatedCompositeFieldContainer[NodeInfo]
    costs: _containers.ScalarMap[str, int]
    verdict: Verdict
    wait: _duration_pb2.Duration
    held_at: int
    limited_by: str
    reason: str
    def __init__(self, policy: _Optional[str] = ..., mode: _Optional[str] = ..., path: _Optional[_Iterable[_Union[NodeInfo, _Mapping]]] = ..., costs: _Optional[_Mapping[str, int]] = ..., verdict: _Optional[_Union[Verdict, str]] = ..., wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., held_at: _Optional[int] = ..., limited_by: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class PolicyInfo(_message.Message):
    __slots__ = ("name", "models", "match", "split_by", "mode", "limits", "concurrent", "levels", "max_wait", "lease", "overrides")
    class MatchEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    NAME_FIELD_NUMBER: _ClassVar[int]
    MODELS_FIELD_NUMBER: _ClassVar[int]
    MATCH_FIELD_NUMBER: _ClassVar[int]
    SPLIT_BY_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    LEVELS_FIELD_NUMBER: _ClassVar[int]
    MAX_WAIT_FIELD_NUMBER: _ClassVar[int]
    LEASE_FIELD_NUMBER: _ClassVar[int]
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    name: str
    models: _containers.RepeatedScalarFieldContainer[str]
    match: _containers.ScalarMap[str, str]
    split_by: _containers.RepeatedScalarFieldContainer[str]
    mode: str
    limits: _containers.RepeatedCompositeFieldContainer[LimitInfo]
    concurrent: int
    levels: _containers.RepeatedCompositeFieldContainer[LevelInfo]
    max_wait: _duration_pb2.Duration
    lease: _duration_pb2.Duration
    overrides: _containers.RepeatedCompositeFieldContainer[Override]
    def __init__(self, name: _Optional[str] = ..., models: _Optional[_Iterable[str]] = ..., match: _Optional[_Mapping[str, str]] = ..., split_by: _Optional[_Iterable[str]] = ..., mode: _Optional[str] = ..., limits: _Optional[_Iterable[_Union[LimitInfo, _Mapping]]] = ..., concurrent: _Optional[int] = ..., levels: _Optional[_Iterable[_Union[LevelInfo, _Mapping]]] = ..., max_wait: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., lease: _Optional[_Union[datetime.timedelta, _duration_pb2.Duration, _Mapping]] = ..., overrides: _Optional[_Iterable[_Union[Override, _Mapping]]] = ...) -> None: ...

class LevelInfo(_message.Message):
    __slots__ = ("label", "rule", "values")
    class ValuesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: NodeRule
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[NodeRule, _Mapping]] = ...) -> None: ...
    LABEL_FIELD_NUMBER: _ClassVar[int]
    RULE_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    label: str
    rule: NodeRule
    values: _containers.MessageMap[str, NodeRule]
    def __init__(self, label: _Optional[str] = ..., rule: _Optional[_Union[NodeRule, _Mapping]] = ..., values: _Optional[_Mapping[str, NodeRule]] = ...) -> None: ...

class NodeRule(_message.Message):
    __slots__ = ("limits", "concurrent", "weight")
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    limits: _containers.RepeatedCompositeFieldContainer[LimitInfo]
    concurrent: int
    weight: float
    def __init__(self, limits: _Optional[_Iterable[_Union[LimitInfo, _Mapping]]] = ..., concurrent: _Optional[int] = ..., weight: _Optional[float] = ...) -> None: ...

class ListPoliciesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListPoliciesResponse(_message.Message):
    __slots__ = ("policies",)
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[PolicyInfo]
    def __init__(self, policies: _Optional[_Iterable[_Union[PolicyInfo, _Mapping]]] = ...) -> None: ...

class ListBucketsRequest(_message.Message):
    __slots__ = ("policy", "page_size")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    PAGE_SIZE_FIELD_NUMBER: _ClassVar[int]
    policy: str
    page_size: int
    def __init__(self, policy: _Optional[str] = ..., page_size: _Optional[int] = ...) -> None: ...

class ListBucketsResponse(_message.Message):
    __slots__ = ("policies", "is_partial")
    POLICIES_FIELD_NUMBER: _ClassVar[int]
    IS_PARTIAL_FIELD_NUMBER: _ClassVar[int]
    policies: _containers.RepeatedCompositeFieldContainer[PolicyBuckets]
    is_partial: bool
    def __init__(self, policies: _Optional[_Iterable[_Union[PolicyBuckets, _Mapping]]] = ..., is_partial: bool = ...) -> None: ...

class PolicyBuckets(_message.Message):
    __slots__ = ("policy", "nodes")
    POLICY_FIELD_NUMBER: _ClassVar[int]
    NODES_FIELD_NUMBER: _ClassVar[int]
    policy: str
    nodes: _containers.RepeatedCompositeFieldContainer[NodeInfo]
    def __init__(self, policy: _Optional[str] = ..., nodes: _Optional[_Iterable[_Union[NodeInfo, _Mapping]]] = ...) -> None: ...

class Override(_message.Message):
    __slots__ = ("policy", "node", "limits", "concurrent", "weight", "until", "why", "by", "set_at", "trouble")
    class NodeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    class LimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    POLICY_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    CONCURRENT_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    UNTIL_FIELD_NUMBER: _ClassVar[int]
    WHY_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    SET_AT_FIELD_NUMBER: _ClassVar[int]
    TROUBLE_FIELD_NUMBER: _ClassVar[int]
    policy: str
    node: _containers.ScalarMap[str, str]
    limits: _containers.ScalarMap[str, str]
    concurrent: int
    weight: float
    until: _timestamp_pb2.Timestamp
    why: str
    by: str
    set_at: _timestamp_pb2.Timestamp
    trouble: str
    def __init__(self, policy: _Optional[str] = ..., node: _Optional[_Mapping[str, str]] = ..., limits: _Optional[_Mapping[str, str]] = ..., concurrent: _Optional[int] = ..., weight: _Optional[float] = ..., until: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., why: _Optional[str] = ..., by: _Optional[str] = ..., set_at: _Optional[_Union[datetime.datetime, _timestamp_pb2.Timestamp, _Mapping]] = ..., trouble: _Optional[str] = ...) -> None: ...

class SetOverrideRequest(_message.Message):
    __slots__ = ("override",)
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    override: Override
    def __init__(self, override: _Optional[_Union[Override, _Mapping]] = ...) -> None: ...

class SetOverrideResponse(_message.Message):
    __slots__ = ("override", "replaced")
    OVERRIDE_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    override: Override
    replaced: bool
    def __init__(self, override: _Optional[_Union[Override, _Mapping]] = ..., replaced: bool = ...) -> None: ...

class ListOverridesRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class ListOverridesResponse(_message.Message):
    __slots__ = ("overrides",)
    OVERRIDES_FIELD_NUMBER: _ClassVar[int]
    overrides: _containers.RepeatedCompositeFieldContainer[Override]
    def __init__(self, overrides: _Optional[_Iterable[_Union[Override, _Mapping]]] = ...) -> None: ...

class RemoveOverrideRequest(_message.Message):
    __slots__ = ("policy", "node", "by")
    class NodeEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: str
        def __init__(self, key: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...
    POLICY_FIELD_NUMBER: _ClassVar[int]
    NODE_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    policy: str
    node: _containers.ScalarMap[str, str]
    by: str
    def __init__(self, policy: _Optional[str] = ..., node: _Optional[_Mapping[str, str]] = ..., by: _Optional[str] = ...) -> None: ...

class RemoveOverrideResponse(_message.Message):
    __slots__ = ("removed",)
    REMOVED_FIELD_NUMBER: _ClassVar[int]
    removed: bool
    def __init__(self, removed: bool = ...) -> None: ...
