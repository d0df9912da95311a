"""Schemas of the OpenAPI document."""

from typing import Any

from vlcompress.serve.tensors import DATATYPES

Json = dict[str, Any]


def reference(name: str) -> Json:
    """Refer to a schema of this module."""
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: dict[str, Any], optional: dict[str, Any] | None = None) -> Json:
    """Describe an object by its members."""
    properties = {**required, **(optional or {})}
    return {"type": "object", "properties": properties, **({"required": list(required)} if required else {})}


def _list(items: Json, **more: Any) -> Json:
    return {"type": "array", "items": items, **more}


_TEXT: Json = {"type": "string"}
_NAME: Json = {"type": "string", "minLength": 1, "maxLength": 200}
_COUNT: Json = {"type": "integer", "minimum": 0}
_NUMBER: Json = {"type": "number"}
_FLAG: Json = {"type": "boolean"}
_ANY: Json = {"type": "object"}
_SHAPE = _list({"type": "integer", "minimum": 1}, maxItems=16)
_OPEN_SHAPE = _list({"type": "integer"})
_DATATYPE: Json = {"type": "string", "enum": list(DATATYPES)}
_BOX = _list({"type": "number", "minimum": 0, "maximum": 1}, minItems=4, maxItems=4)

_TENSOR = _object({"name": _NAME, "datatype": _DATATYPE, "shape": _OPEN_SHAPE})
_DURATION = _object({"count": _COUNT, "ns": _COUNT})

SCHEMAS: Json = {
    "Error": _object({"error": _TEXT}),
    "Live": _object({"live": _FLAG}),
    "Ready": _object({"ready": _FLAG}),
    "ModelReady": _object({"name": _TEXT, "ready": _FLAG}),
    "ServerMetadata": _object({"name": _TEXT, "version": _TEXT, "extensions": _list(_TEXT)}),
    "Tensor": _TENSOR,
    "ModelMetadata": _object(
        {
            "name": _TEXT,
            "versions": _list(_TEXT),
            "platform": _TEXT,
            "inputs": _list(reference("Tensor")),
            "outputs": _list(reference("Tensor")),
        }
    ),
    "ModelConfig": _object({"name": _TEXT, "max_batch_size": _COUNT, "input": _list(_ANY), "output": _list(_ANY)}),
    "Statistics": _object(
        {
            "model_stats": _list(
                _object(
                    {
                        "name": _TEXT,
                        "version": _TEXT,
                        "last_inference": _COUNT,
                        "inference_count": _COUNT,
                        "execution_count": _COUNT,
                        "inference_stats": {"type": "object", "additionalProperties": _DURATION},
                        "batch_stats": _list(_ANY),
                    }
                )
            )
        }
    ),
    "IndexRequest": _object({}, {"ready": _FLAG}),
    "Index": _list(_object({"name": _TEXT, "version": _TEXT, "state": _TEXT, "reason": _TEXT})),
    "InferInput": _object(
        {"name": _NAME, "datatype": _DATATYPE, "shape": _SHAPE},
        {
            "data": {"type": "array", "description": "Flat, or nested as the shape says; row-major."},
            "parameters": _object({}, {"binary_data_size": _COUNT}),
        },
    ),
    "InferOutput": _object(
        {"name": _NAME}, {"parameters": _object({}, {"binary_data": _FLAG, "classification": _COUNT})}
    ),
    "InferRequest": _object(
        {"inputs": _list(reference("InferInput"), minItems=1)},
        {
            "id": {"type": "string", "maxLength": 1024},
            "outputs": _list(reference("InferOutput")),
            "parameters": _object({}, {"binary_data_output": _FLAG, "timeout": {**_COUNT, "description": "In us."}}),
        },
    ),
    "InferResponse": _object(
        {
            "model_name": _TEXT,
            "model_version": _TEXT,
            "outputs": _list(
                _object({"name": _TEXT, "datatype": _DATATYPE, "shape": _OPEN_SHAPE}, {"data": {"type": "array"}})
            ),
        },
        {"id": _TEXT},
    ),
    "Overview": _object({"tasks": _list(_TEXT), "models": _list(_ANY), "pictures": _list(_ANY)}),
    "VqaRequest": _object(
        {"question": {"type": "string", "minLength": 1, "maxLength": 2000}},
        {
            "picture": {**_TEXT, "description": "Name of a built-in picture."},
            "image": {**_TEXT, "description": "A JPEG, PNG or WEBP file in base64."},
            "features": _list(_list(_NUMBER), description="Region features, one row a region."),
            "boxes": _list(_BOX, description="Corners x1, y1, x2, y2 of the regions as fractions of the picture."),
            "model": _TEXT,
            "version": _TEXT,
            "top_k": {"type": "integer", "minimum": 1, "maximum": 100},
        },
    ),
    "VqaResponse": _object(
        {
            "task": _TEXT,
            "model": _TEXT,
            "model_version": _TEXT,
            "answers": _list(_object({"label": _TEXT, "score": _NUMBER})),
            "timing_ms": {"type": "object", "additionalProperties": _NUMBER},
            "boxes": _list(_BOX),
            "boxes_from": {"type": "string", "enum": ["stored", "given", "proposed", "none"]},
            "question_cut": _FLAG,
            "unknown_words": _list(_TEXT),
        }
    ),
}
"""Every schema by name; what a server adds later does not break a client, so objects stay open."""
