"""JSON schemas of requests and answers, for the OpenAPI document."""

from typing import Any

from .moderations import CATEGORIES

Schema = dict[str, Any]

STRING: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
BOOLEAN: Schema = {"type": "boolean"}
ANY_OBJECT: Schema = {"type": "object"}


def record(required: dict[str, Schema], optional: dict[str, Schema] | None = None, *, closed: bool = False) -> Schema:
    """An object; of a closed one every key is named here."""
    found: Schema = {"type": "object", "properties": required | (optional or {}), "required": sorted(required)}
    return found | {"additionalProperties": False} if closed else found


def list_of(items: Schema, least: int = 0) -> Schema:
    """An array."""
    return {"type": "array", "items": items, "minItems": least}


def or_null(schema: Schema) -> Schema:
    """The same, or null."""
    return {"anyOf": [schema, {"type": "null"}]}


ERROR = record({"error": record({"message": STRING, "type": STRING, "code": STRING, "param": {"type": "null"}})})

FIELD = record({"label": STRING, "score": NUMBER, "margin": NUMBER, "labels": {"type": "object"}})
_VERDICT: dict[str, Schema] = {
    "safe": BOOLEAN, "label": STRING, "field": STRING, "categories": list_of(STRING), "score": NUMBER,
    "margin": NUMBER, "fields": {"type": "object", "additionalProperties": or_null(FIELD)},
    "openai_scores": {"type": "object", "additionalProperties": NUMBER}, "mode": STRING,
    "windows": {"type": "integer"}, "truncated": BOOLEAN, "suspicious_literals": list_of(STRING),
    "tokens": ANY_OBJECT, "ms": record({"queue": NUMBER, "tokenize": NUMBER, "pass": NUMBER, "total": NUMBER}),
    "failure": or_null(record({"kind": STRING, "message": STRING, "on_error": STRING})),
}  # fmt: skip
VERDICT = record(_VERDICT, closed=True)
PARTS = list_of(record({"type": {"const": "text"}, "text": STRING}), 1)

MODERATIONS_REQUEST = record(
    {"input": {"anyOf": [STRING, list_of(STRING, 1), PARTS]}}, {"model": or_null(STRING)}
)  # fmt: skip
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
                    "guardpass": record(_VERDICT | {"no_openai_category": list_of(STRING)}, closed=True),
                },
                closed=True,
            ),
            1,
        ),
    }
)  # fmt: skip

CHECK_REQUEST = record(
    {"text": STRING},
    {
        "response": or_null(STRING), "guard": or_null(STRING), "panel": or_null({"enum": ["any", "all", "weighted"]}),
        "policies": or_null(list_of(STRING, 1)),
        "threshold": {"anyOf": [
            {"type": "number", "minimum": 0, "maximum": 1}, {"type": "null"},
            {"type": "object", "additionalProperties": {"type": "number", "minimum": 0, "maximum": 1}},
        ]},
        "strict": or_null(BOOLEAN), "temperature": or_null({"type": "number", "minimum": 0.001, "maximum": 1000}),
        "alpha": or_null({"type": "number", "minimum": 0, "maximum": 1e6}), "priority": or_null({"type": "integer"}),
    },
    closed=True,
)  # fmt: skip
CHECK: Schema = {
    "anyOf": [
        record({"id": STRING, "guard": STRING, "verdict": VERDICT}, closed=True),
        record({"id": STRING, "panel": ANY_OBJECT}, closed=True),
    ]
}

CONTENT = {"anyOf": [STRING, PARTS]}
CHAT_REQUEST = record(
    {"messages": list_of(record({"role": STRING}, {"content": {"anyOf": [STRING, PARTS, {"type": "null"}]}}), 1)},
    {"model": or_null(STRING), "stream": or_null(BOOLEAN)},
)
CHAT = record(
    {
        "id": STRING, "object": STRING, "created": {"type": "integer"}, "model": STRING,
        "choices": list_of(ANY_OBJECT, 1), "usage": ANY_OBJECT, "guardpass": VERDICT,
    }
)  # fmt: skip

LITELLM_REQUEST = record(
    {"input_type": {"enum": ["request", "response"]}},
    {
        "texts": or_null(list_of(STRING)), "structured_messages": or_null(list_of(ANY_OBJECT)),
        "additional_provider_specific_params": or_null(ANY_OBJECT),
    },
)  # fmt: skip
LITELLM = record({"action": {"enum": ["BLOCKED", "NONE"]}}, {"blocked_reason": STRING}, closed=True)

STATUS = record({"status": STRING})
