"""What the values of the chart are made of."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

Name = Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]{0,48}[a-z0-9])?$")]
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$")]
CountOrNone = Annotated[int, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Port = Annotated[int, Field(ge=1, le=65535)]
Labels = dict[str, str]


class Values(BaseModel):
    """Keys are camelCase in YAML, as charts have it; one that there is not is refused by its name."""

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, validate_by_name=True)


class Resources(Values):
    """What a pod asks for and may have: requests and limits are equal, so that Ray and Kubernetes count alike."""

    cpu: Quantity = Field(default="1", description="CPUs.")
    memory: Quantity = Field(default="4Gi", description="Memory.")


class Placement(Values):
    """Where pods go."""

    node_selector: Labels = Field(default={}, description="Labels that a node must have.")
    tolerations: list[dict[str, Any]] = Field(
        default=[], description="Taints that are fine, as Kubernetes writes them."
    )
    priority_class_name: str = Field(default="", description="An existing PriorityClass.")
    spread_over: str = Field(
        default="", description="A topology key, such as topology.kubernetes.io/zone, to spread over."
    )
