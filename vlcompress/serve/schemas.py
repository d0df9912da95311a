"""What requests and answers look like: checked on the way in, and written into the OpenAPI document, from here alone.

A field's description says what to give: an error about the field ends with it. Tensors are not checked here
(`vlcompress.serve.decode` has numpy do it), and answers are typed dictionaries, which cost nothing to make.
"""

from typing import Annotated, Any, ClassVar, Literal, NotRequired, TypeVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema
from typing_extensions import TypedDict

from vlcompress.serve.refusal import invalid, shown
from vlcompress.serve.tensors import DATATYPES, Datatype

Json = dict[str, Any]
MOST_ANSWERS = 100
MOST_CHOICES = 16
LONGEST_QUESTION = 2000
LONGEST_NAME, MOST_AXES = 200, 16

Count = Annotated[int, Field(ge=0)]
Name = Annotated[
    str, Field(min_length=1, max_length=LONGEST_NAME, description=f"a name of at most {LONGEST_NAME} characters")
]
Datatype_ = Annotated[Datatype, Field(description=f"its type: allowed are {', '.join(DATATYPES)}")]
Unchecked = Annotated[Any, WithJsonSchema({"type": "array"})]
UncheckedText = Annotated[Any, WithJsonSchema({"type": "string"})]


class RequestPart(BaseModel):
    """A part of a request. Nothing is converted: "1" is no number; unknown members are left alone."""

    model_config = ConfigDict(strict=True, frozen=True)


Asked = TypeVar("Asked", bound=RequestPart)


def _refuse(value: object, info: ValidationInfo) -> object:
    if value:
        raise ValueError(f"parameter '{info.field_name}' is not offered: the server's metadata lists its extensions")
    return value


def _refuse_no_version(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | str | None):
        raise ValueError(f"'version' of request is {shown(value)}: give a whole number, or the same as text")
    return value


Version = Annotated[Any, WithJsonSchema({"type": ["string", "integer"]}), AfterValidator(_refuse_no_version)]
NotOffered = SkipJsonSchema[Annotated[Any, AfterValidator(_refuse)]]


class Parameters(RequestPart):
    """Parameters of a request, an input or an output; an extension that is not offered is not ignored."""

    shared_memory_region: NotOffered = None
    sequence_id: NotOffered = None


class RequestParameters(Parameters):
    """Parameters of an infer request."""

    binary_data_output: bool = Field(default=False, description="true to get outputs as raw bytes, or false")
    timeout: Count | None = Field(default=None, description="microseconds; 0 is the server's own deadline")


class InputParameters(Parameters):
    """Parameters of an input."""

    binary_data_size: Count | None = Field(default=None, description="a number of bytes")


class OutputParameters(Parameters):
    """Parameters of an output."""

    binary_data: bool | None = Field(default=None, description="true for raw bytes, or false")
    classification: Count = Field(default=0, description="the number of classes")


class InferInput(RequestPart):
    """One tensor of a request."""

    name: Name
    datatype: Datatype_
    shape: list[Annotated[int, Field(ge=1)]] = Field(
        max_length=MOST_AXES, description="a list of whole numbers: every size must be 1 or more"
    )
    data: Unchecked = Field(default=None, description="its values, flat or nested as the shape says; row-major")
    parameters: InputParameters | None = Field(default=None, description="an object")


class InferOutput(RequestPart):
    """An output that is asked for."""

    name: str = Field(description="the name of an output")
    parameters: OutputParameters | None = Field(default=None, description="an object")


class InferRequest(RequestPart):
    """What stands before the raw tensors of an infer request, or all of it."""

    inputs: list[InferInput] = Field(min_length=1, description="the model's inputs")
    id: str | None = Field(default=None, max_length=1024, description="a string of at most 1024 characters")
    outputs: list[InferOutput] | None = Field(default=None, description="a list of outputs")
    parameters: RequestParameters | None = Field(default=None, description="an object")


class IndexRequest(RequestPart):
    """Which versions to list."""

    ready: bool = Field(default=False, description="true for those that are ready alone, or false")


class TaskRequest(RequestPart):
    """What every task's request may say."""

    model: str | None = Field(default=None, description="the name of a model")
    version: Version = Field(default=None, description="its version")
    top_k: int = Field(default=5, ge=1, le=MOST_ANSWERS, description=f"a whole number from 1 to {MOST_ANSWERS}")


class ImageInput(RequestPart):
    """An image, which is named, sent as a file, or told by the features of its regions."""

    picture: UncheckedText = Field(default=None, description="name of a built-in picture")
    image: UncheckedText = Field(default=None, description="a JPEG, PNG or WEBP file in base64")
    features: Unchecked = Field(
        default=None,
        description="region features, one row of numbers a region, or an .npz file of 'features' and 'boxes' in base64",
    )
    boxes: Unchecked = Field(
        default=None, description="corners x1, y1, x2, y2 of the regions as fractions of the picture"
    )
    width: Count | None = Field(default=None, description="pixels of the picture that features were made of")
    height: Count | None = Field(default=None, description="pixels of the picture that features were made of")

    @model_validator(mode="before")
    @classmethod
    def _one_image(cls, document: Any) -> Any:
        names = [name for name in ("picture", "image", "features") if name in cls.model_fields]
        given = [name for name in names if isinstance(document, dict) and document.get(name) is not None]
        if len(given) != 1:
            found = " and ".join(given) or "none"
            raise ValueError(f"give exactly one of {', '.join(names)}: there is {found}")
        return document


def _sentence(description: str) -> Any:
    """Make the field of a text that must not be empty."""
    return Field(
        pattern=r"\S", max_length=LONGEST_QUESTION, description=f"{description}: at most {LONGEST_QUESTION} characters"
    )


class QuestionRequest(TaskRequest, ImageInput):
    """A question about an image, or a statement (SNLI-VE)."""

    question: str = _sentence("some text")


class StatementRequest(TaskRequest):
    """A statement about two images (NLVR2)."""

    statement: str = _sentence("some text")
    left: ImageInput = Field(description="an image")
    right: ImageInput = Field(description="an image")


class ChoiceRequest(TaskRequest, ImageInput):
    """A question about people in an image with answers to choose from (VCR), or rationales of a given answer.

    "[0]" in a text is the first of `objects`, which are the classes of the first boxes.
    """

    question: str = _sentence("some text")
    choices: list[Annotated[str, Field(min_length=1, max_length=LONGEST_QUESTION)]] = Field(
        min_length=2, max_length=MOST_CHOICES, description=f"a list of 2 to {MOST_CHOICES} texts to choose from"
    )
    answer: str | None = Field(
        default=None, max_length=LONGEST_QUESTION, description="the answer that the choices give a reason for"
    )
    objects: list[Annotated[str, Field(max_length=100)]] = Field(
        default=[], max_length=MOST_ANSWERS, description="a list of the classes of the first boxes, such as person"
    )


class ExpressionRequest(TaskRequest, ImageInput):
    """An expression that means one region of an image (RefCOCO)."""

    expression: str = _sentence("some text")


class PictureRequest(TaskRequest, ImageInput):
    """An image to be classified."""


class SentenceRequest(TaskRequest):
    """A sentence to be classified."""

    text: str = _sentence("some text")


class _TextOrImage(TaskRequest):
    text: str | None = Field(default=None, pattern=r"\S", max_length=LONGEST_QUESTION, description="some text, or none")
    image: ImageInput | None = Field(default=None, description="an image, or none")
    _then: ClassVar[tuple[str, str]] = ("", "")

    @model_validator(mode="before")
    @classmethod
    def _one_side(cls, document: Any) -> Any:
        if isinstance(document, dict) and (document.get("text") is None) == (document.get("image") is None):
            raise ValueError(f"give either text{cls._then[0]}, or image{cls._then[1]}")
        return document


class SearchRequest(_TextOrImage):
    """A text to find images of, or an image to find texts of, in the server's index."""

    _then: ClassVar[tuple[str, str]] = (", to find images", ", to find texts")


class EmbeddingRequest(_TextOrImage):
    """A text or an image to be embedded."""


class Error(TypedDict):
    """Any answer of status 400 or more."""

    error: str


class Live(TypedDict):
    live: bool


class Ready(TypedDict):
    ready: bool


class ModelReady(TypedDict):
    name: str
    ready: bool


class ServerMetadata(TypedDict):
    name: str
    version: str
    extensions: list[str]


class Tensor(TypedDict):
    """An input or output; -1 is an axis that may vary."""

    name: str
    datatype: Datatype
    shape: list[int]


class ModelMetadata(TypedDict):
    name: str
    versions: list[str]
    platform: str
    inputs: list[Tensor]
    outputs: list[Tensor]


class TensorConfig(TypedDict):
    name: str
    data_type: str
    dims: list[int]


class ModelConfig(TypedDict):
    """A model's configuration in Triton's words."""

    name: str
    platform: str
    backend: str
    version_policy: Json
    max_batch_size: Count
    input: list[TensorConfig]
    output: list[TensorConfig]
    instance_group: list[Json]
    dynamic_batching: Json


class Duration(TypedDict):
    count: Count
    ns: Count


class ModelStatistics(TypedDict):
    name: str
    version: str
    last_inference: Count
    inference_count: Count
    execution_count: Count
    inference_stats: dict[str, Duration]
    batch_stats: list[Json]


class Statistics(TypedDict):
    model_stats: list[ModelStatistics]


class IndexRow(TypedDict):
    """A version on disk: READY, or UNAVAILABLE and why."""

    name: str
    version: str
    state: str
    reason: str


class OutputTensor(Tensor):
    data: NotRequired[Unchecked]
    parameters: NotRequired[Json]


class InferResponse(TypedDict):
    model_name: str
    model_version: str
    id: NotRequired[str]
    outputs: list[OutputTensor]


class Overview(TypedDict):
    """Tasks, the models that do them and with what they can be asked, and built-in pictures with questions."""

    tasks: list[str]
    models: list[Json]
    pictures: list[Json]


class ScoredLabel(TypedDict):
    """One answer, best first; of a region also its number and its box as x, y, width, height in pixels."""

    label: str
    score: float
    region: NotRequired[int]
    pixels: NotRequired[list[float]]


class Answered(TypedDict):
    """Which model answered, and where the time went."""

    task: str
    model: str
    model_version: str
    timing_ms: dict[str, float]


class TaskResponse(Answered):
    """The best labels, best first."""

    answers: list[ScoredLabel]


Origin = Literal["stored", "given", "proposed", "none"]


class TextFacts(TypedDict):
    """What was made of the words."""

    question_cut: bool
    unknown_words: list[str]


class ImageFacts(TypedDict):
    """What was made of an image."""

    boxes: list[list[float]]
    boxes_from: Origin


class QuestionResponse(TaskResponse, TextFacts, ImageFacts):
    """The best answers to a question; for RefCOCO the likeliest regions."""


class StatementResponse(TaskResponse, TextFacts):
    """Whether a statement about two images is true."""

    left: ImageFacts
    right: ImageFacts


class PictureResponse(TaskResponse, ImageFacts):
    """The likeliest classes."""


class SentenceResponse(TaskResponse, TextFacts):
    """The likeliest classes."""


class EmbeddingResponse(Answered, TextFacts):
    """The vector of a text or an image, of length 1: the product of two is their cosine."""

    embedding: list[float]


class SearchResponse(TaskResponse):
    """What in the index fits best."""

    searched: int


def checked(kind: type[Asked], document: Json) -> Asked:
    """Check a request's JSON.

    Raises:
        Refusal: 400 with the first thing that is wrong, and what to give instead.
    """
    try:
        return kind.model_validate(document)
    except ValidationError as error:
        raise invalid(_first(kind, document, error)) from None


def _first(kind: type[RequestPart], document: Json, error: ValidationError) -> str:
    """Say in one line what is wrong first: where, what is there, and what the field's description asks for."""
    found = error.errors(include_url=False)[0]
    if found["type"] == "value_error":
        return str(found["ctx"]["error"])
    path = list(found["loc"])
    while not isinstance(path[-1], str):
        path.pop()  # an element of a list: the list's description says what it must be
    where, value, fix = _where(document, path), _value(document, path), _description(kind, path)
    missing = value is None or value == [] or (isinstance(value, str) and not value.strip())
    return f"'{path[-1]}' of {where} is {'missing' if missing else shown(value)}: give {fix}"


def _value(document: Any, path: list[Any]) -> Any:
    for part in path:
        document = document[part] if isinstance(document, list) or part in document else None
    return document


def _where(document: Json, path: list[Any]) -> str:
    """Name the input or output that a path leads into."""
    if len(path) < 2 or not isinstance(path[1], int):
        return "request"
    return f"{str(path[0]).removesuffix('s')} '{shown(document[path[0]][path[1]].get('name', path[1]))}'"


def _description(kind: type[BaseModel], path: list[int | str]) -> str:
    """Find the description of the field at the end of a path."""
    *above, last = (part for part in path if isinstance(part, str))
    for name in above:
        parts = _parts(kind.model_fields[name].annotation)
        kind = next(part for part in parts if isinstance(part, type) and issubclass(part, RequestPart))
    return kind.model_fields[last].description or "something else"


def _parts(annotation: Any) -> list[Any]:
    """List a type and those that it is made of."""
    return [annotation, *(part for inner in get_args(annotation) for part in _parts(inner))]
