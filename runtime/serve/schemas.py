"""JSON schemas of requests and answers, for the OpenAPI document."""

from typing import Any

from .messages import ROLES
from .moderations import CATEGORIES

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
ANY_OBJECT: Schema = {"type": "object"}


def record(required: dict[str, Schema], optional: dict[str, Schema] | None = None, *, closed: bool = False) -> Schema:
    """An object; a closed one has no other keys."""
    schema: Schema = {"type": "object", "properties": required | (optional or {}), "required": sorted(required)}
    return schema | {"additionalProperties": False} if closed else schema


def list_of(items: Schema, least: int = 0) -> Schema:
    """An array."""
    return {"type": "array", "items": items, "minItems": least}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


# fmt: off
ERROR = record({"error": record({"message": STRING, "type": STRING, "code": STRING, "param": {"type": "null"}})})

FIELD = record({"label": STRING, "score": NUMBER, "margin": NUMBER, "labels": {"type": "object"}})
_VERDICT: dict[str, Schema] = {
    "safe": BOOLEAN, "label": STRING, "field": STRING, "categories": list_of(STRING), "score": NUMBER,
    "margin": NUMBER, "fields": {"type": "object", "additionalProperties": or_null(FIELD)},
    "openai_scores": {"type": "object", "additionalProperties": NUMBER}, "mode": STRING,
    "windows": {"type": "integer"}, "truncated": BOOLEAN, "normalized": BOOLEAN,
    "suspicious_literals": list_of(STRING),
    "tokens": ANY_OBJECT, "ms": record({"queue": NUMBER, "tokenize": NUMBER, "pass": NUMBER, "total": NUMBER}),
    "failure": or_null(record({"kind": STRING, "message": STRING, "on_error": STRING})),
}
VERDICT = record(_VERDICT, closed=True)
_IGNORED = {"ignored": list_of(STRING)}  # keys, turns and parts that the verdict leaves out
JUDGED = record(_VERDICT | _IGNORED, closed=True)
PARTS = list_of(record({"type": STRING}), 1)  # of text, or with --unjudged allow of anything

MODERATIONS_REQUEST = record(
    {"input": {"anyOf": [STRING, list_of(STRING, 1), PARTS]}}, {"model": or_null(STRING)}
)
MODERATIONS = record(
    {
        "id": STRING, "model": STRING,
        "results": list_of(
            record(
                {
                    "flagged": BOOLEAN,
                    "categories": record(dict.fromkeys(CATEGORIES, BOOLEAN), closed=True),
                    "category_scores": record(dict.fromkeys(CATEGORIES, NUMBER), closed=True),
                    "category_applied_input_types": record({name: list_of(STRING) for name in CATEGORIES}, closed=True),
                    "guardpass": record(_VERDICT | _IGNORED | {"no_openai_category": list_of(STRING)}, closed=True),
                },
                closed=True,
            ),
            1,
        ),
    }
)

OPTIONS: dict[str, Schema] = {
    "guard": or_null(STRING), "panel": or_null({"enum": ["any", "all", "weighted"]}),
    "policies": or_null(list_of(STRING, 1)),
    "threshold": {"anyOf": [
        {"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"},
        {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
    ]},
    "strict": or_null(BOOLEAN), "temperature": or_null({"type": "number", "minimum": 0.001, "maximum": 1000}),
    "alpha": or_null({"type": "number", "minimum": 0, "maximum": 1e6}), "normalize": or_null({"enum": ["on", "off"]}),
    "priority": or_null({"type": "integer"}),
}
CHECK_REQUEST = record({"text": STRING}, {"response": or_null(STRING), **OPTIONS}, closed=True)
CHECK: Schema = {
    "anyOf": [
        record({"id": STRING, "guard": STRING, "verdict": VERDICT}, closed=True),
        record({"id": STRING, "panel": ANY_OBJECT}, closed=True),
    ]
}

MESSAGE = record(
    {"role": {"enum": list(ROLES)}},
    {
        "content": {"anyOf": [STRING, list_of({}), {"type": "null"}]}, "refusal": or_null(STRING),
        "tool_calls": or_null(list_of({})),
    },
)
CHAT_REQUEST = record({"messages": list_of(MESSAGE, 1)}, {"model": or_null(STRING), "stream": or_null(BOOLEAN)})
CHAT = record(
    {
        "id": STRING, "object": STRING, "created": {"type": "integer"}, "model": STRING,
        "choices": list_of(ANY_OBJECT, 1), "usage": ANY_OBJECT, "guardpass": JUDGED,
    }
)

LITELLM_REQUEST = record(
    {"input_type": {"enum": ["request", "response"]}},
    {
        "texts": or_null(list_of(STRING)), "images": or_null(list_of({})), "tools": or_null(list_of(ANY_OBJECT)),
        "tool_calls": or_null(list_of(ANY_OBJECT)), "structured_messages": or_null(list_of(ANY_OBJECT)),
        "additional_provider_specific_params": or_null(record({}, OPTIONS, closed=True)),
    },
)
LITELLM = record(
    {"action": {"enum": ["BLOCKED", "NONE"]}, "guardpass": record(_IGNORED, closed=True)},
    {"blocked_reason": STRING}, closed=True,
)

STATUS = record({"status": STRING})
# fmt: on
