from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ImageFormat(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    IMAGE_FORMAT_UNSPECIFIED: _ClassVar[ImageFormat]
    IMAGE_FORMAT_PNG: _ClassVar[ImageFormat]
    IMAGE_FORMAT_WEBP: _ClassVar[ImageFormat]
    IMAGE_FORMAT_FLOAT32: _ClassVar[ImageFormat]
    IMAGE_FORMAT_JPEG: _ClassVar[ImageFormat]
IMAGE_FORMAT_UNSPECIFIED: ImageFormat
IMAGE_FORMAT_PNG: ImageFormat
IMAGE_FORMAT_WEBP: ImageFormat
IMAGE_FORMAT_FLOAT32: ImageFormat
IMAGE_FORMAT_JPEG: ImageFormat

class Condition(_message.Message):
    __slots__ = ("class_id", "prompt")
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    class_id: int
    prompt: str
    def __init__(self, class_id: _Optional[int] = ..., prompt: _Optional[str] = ...) -> None: ...

class GenerateRequest(_message.Message):
    __slots__ = ("conditions", "seeds", "format", "version")
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    SEEDS_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    conditions: _containers.RepeatedCompositeFieldContainer[Condition]
    seeds: _containers.RepeatedScalarFieldContainer[int]
    format: ImageFormat
    version: str
    def __init__(self, conditions: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ..., seeds: _Optional[_Iterable[int]] = ..., format: _Optional[_Union[ImageFormat, str]] = ..., version: _Optional[str] = ...) -> None: ...

class Image(_message.Message):
    __slots__ = ("index", "data", "format", "shape", "class_id", "seed", "students", "version", "student_version", "queue_ms", "compute_ms", "prompt", "margin", "position", "batching", "bound")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    FORMAT_FIELD_NUMBER: _ClassVar[int]
    SHAPE_FIELD_NUMBER: _ClassVar[int]
    CLASS_ID_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    STUDENTS_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STUDENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    PROMPT_FIELD_NUMBER: _ClassVar[int]
    MARGIN_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    BATCHING_FIELD_NUMBER: _ClassVar[int]
    BOUND_FIELD_NUMBER: _ClassVar[int]
    index: int
    data: bytes
    format: ImageFormat
    shape: _containers.RepeatedScalarFieldContainer[int]
    class_id: int
    seed: int
    students: _containers.RepeatedScalarFieldContainer[int]
    version: str
    student_version: str
    queue_ms: float
    compute_ms: float
    prompt: str
    margin: float
    position: _containers.RepeatedScalarFieldContainer[float]
    batching: str
    bound: float
    def __init__(self, index: _Optional[int] = ..., data: _Optional[bytes] = ..., format: _Optional[_Union[ImageFormat, str]] = ..., shape: _Optional[_Iterable[int]] = ..., class_id: _Optional[int] = ..., seed: _Optional[int] = ..., students: _Optional[_Iterable[int]] = ..., version: _Optional[str] = ..., student_version: _Optional[str] = ..., queue_ms: _Optional[float] = ..., compute_ms: _Optional[float] = ..., prompt: _Optional[str] = ..., margin: _Optional[float] = ..., position: _Optional[_Iterable[float]] = ..., batching: _Optional[str] = ..., bound: _Optional[float] = ...) -> None: ...

class GenerateResponse(_message.Message):
    __slots__ = ("images",)
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    images: _containers.RepeatedCompositeFieldContainer[Image]
    def __init__(self, images: _Optional[_Iterable[_Union[Image, _Mapping]]] = ...) -> None: ...

class ListStudentsRequest(_message.Message):
    __slots__ = ("version",)
    VERSION_FIELD_NUMBER: _ClassVar[int]
    version: str
    def __init__(self, version: _Optional[str] = ...) -> None: ...

class ListStudentsResponse(_message.Message):
    __slots__ = ("version", "students")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    STUDENTS_FIELD_NUMBER: _ClassVar[int]
    version: str
    students: _containers.RepeatedCompositeFieldContainer[Student]
    def __init__(self, version: _Optional[str] = ..., students: _Optional[_Iterable[_Union[Student, _Mapping]]] = ...) -> None: ...

class Student(_message.Message):
    __slots__ = ("index", "classes", "sigma_low", "sigma_high", "parameters", "trained_images", "sha256", "student_version", "not_ready")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    CLASSES_FIELD_NUMBER: _ClassVar[int]
    SIGMA_LOW_FIELD_NUMBER: _ClassVar[int]
    SIGMA_HIGH_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    TRAINED_IMAGES_FIELD_NUMBER: _ClassVar[int]
    SHA256_FIELD_NUMBER: _ClassVar[int]
    STUDENT_VERSION_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_FIELD_NUMBER: _ClassVar[int]
    index: int
    classes: _containers.RepeatedScalarFieldContainer[int]
    sigma_low: float
    sigma_high: float
    parameters: int
    trained_images: int
    sha256: str
    student_version: str
    not_ready: str
    def __init__(self, index: _Optional[int] = ..., classes: _Optional[_Iterable[int]] = ..., sigma_low: _Optional[float] = ..., sigma_high: _Optional[float] = ..., parameters: _Optional[int] = ..., trained_images: _Optional[int] = ..., sha256: _Optional[str] = ..., student_version: _Optional[str] = ..., not_ready: _Optional[str] = ...) -> None: ...

class GetEnsembleRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class GetEnsembleResponse(_message.Message):
    __slots__ = ("versions", "limits")
    VERSIONS_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    versions: _containers.RepeatedCompositeFieldContainer[Version]
    limits: Limits
    def __init__(self, versions: _Optional[_Iterable[_Union[Version, _Mapping]]] = ..., limits: _Optional[_Union[Limits, _Mapping]] = ...) -> None: ...

class Version(_message.Message):
    __slots__ = ("name", "weight", "partition_kind", "labels", "students", "intervals", "parameters", "evaluations", "sample_shape", "recipe", "served", "not_ready", "takes_prompts", "map")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    PARTITION_KIND_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    STUDENTS_FIELD_NUMBER: _ClassVar[int]
    INTERVALS_FIELD_NUMBER: _ClassVar[int]
    PARAMETERS_FIELD_NUMBER: _ClassVar[int]
    EVALUATIONS_FIELD_NUMBER: _ClassVar[int]
    SAMPLE_SHAPE_FIELD_NUMBER: _ClassVar[int]
    RECIPE_FIELD_NUMBER: _ClassVar[int]
    SERVED_FIELD_NUMBER: _ClassVar[int]
    NOT_READY_FIELD_NUMBER: _ClassVar[int]
    TAKES_PROMPTS_FIELD_NUMBER: _ClassVar[int]
    MAP_FIELD_NUMBER: _ClassVar[int]
    name: str
    weight: float
    partition_kind: str
    labels: _containers.RepeatedScalarFieldContainer[str]
    students: _containers.RepeatedScalarFieldContainer[int]
    intervals: int
    parameters: int
    evaluations: int
    sample_shape: _containers.RepeatedScalarFieldContainer[int]
    recipe: str
    served: Served
    not_ready: _containers.RepeatedScalarFieldContainer[int]
    takes_prompts: bool
    map: PromptMap
    def __init__(self, name: _Optional[str] = ..., weight: _Optional[float] = ..., partition_kind: _Optional[str] = ..., labels: _Optional[_Iterable[str]] = ..., students: _Optional[_Iterable[int]] = ..., intervals: _Optional[int] = ..., parameters: _Optional[int] = ..., evaluations: _Optional[int] = ..., sample_shape: _Optional[_Iterable[int]] = ..., recipe: _Optional[str] = ..., served: _Optional[_Union[Served, _Mapping]] = ..., not_ready: _Optional[_Iterable[int]] = ..., takes_prompts: _Optional[bool] = ..., map: _Optional[_Union[PromptMap, _Mapping]] = ...) -> None: ...

class PromptMap(_message.Message):
    __slots__ = ("regions",)
    REGIONS_FIELD_NUMBER: _ClassVar[int]
    regions: _containers.RepeatedCompositeFieldContainer[Region]
    def __init__(self, regions: _Optional[_Iterable[_Union[Region, _Mapping]]] = ...) -> None: ...

class Region(_message.Message):
    __slots__ = ("x", "y", "weight", "words")
    X_FIELD_NUMBER: _ClassVar[int]
    Y_FIELD_NUMBER: _ClassVar[int]
    WEIGHT_FIELD_NUMBER: _ClassVar[int]
    WORDS_FIELD_NUMBER: _ClassVar[int]
    x: float
    y: float
    weight: float
    words: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, x: _Optional[float] = ..., y: _Optional[float] = ..., weight: _Optional[float] = ..., words: _Optional[_Iterable[str]] = ...) -> None: ...

class Served(_message.Message):
    __slots__ = ("images", "failures", "mean_queue_ms", "mean_compute_ms")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    FAILURES_FIELD_NUMBER: _ClassVar[int]
    MEAN_QUEUE_MS_FIELD_NUMBER: _ClassVar[int]
    MEAN_COMPUTE_MS_FIELD_NUMBER: _ClassVar[int]
    images: int
    failures: int
    mean_queue_ms: float
    mean_compute_ms: float
    def __init__(self, images: _Optional[int] = ..., failures: _Optional[int] = ..., mean_queue_ms: _Optional[float] = ..., mean_compute_ms: _Optional[float] = ...) -> None: ...

class Limits(_message.Message):
    __slots__ = ("images", "request_bytes")
    IMAGES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BYTES_FIELD_NUMBER: _ClassVar[int]
    images: int
    request_bytes: int
    def __init__(self, images: _Optional[int] = ..., request_bytes: _Optional[int] = ...) -> None: ...
