"""The kinds of numbers that a recipe, a sweep, a service or a description of a cluster may hold.

Pydantic checks these ranges when a file or a command line is read, and refuses NaN (`msd_ray.validation`). The upper
ends lie far above what makes sense, and below what would take all memory or never end.
"""

from typing import Annotated, Any


def within(**bounds: Any) -> Any:
    """The bounds of a number, as pydantic takes them: ge, gt, le, lt."""
    try:
        from pydantic import Field
    except ModuleNotFoundError:  # a bare GPU machine, where programs make configurations and nobody reads files
        return tuple(bounds.items())
    return Field(**bounds)


LARGEST_SEED = 2**63 - 1
Seed = Annotated[int, within(ge=0, le=LARGEST_SEED)]
Images = Annotated[int, within(ge=1, le=10**12)]
"""A length of training, an interval, a number of samples."""
ImagesOrNone = Annotated[int, within(ge=0, le=10**12)]
"""A warm-up or a half-life: 0 for none."""
Count = Annotated[int, within(ge=1, le=10**6)]
CountOrNone = Annotated[int, within(ge=0, le=10**6)]
Width = Annotated[int, within(ge=1, le=2**16)]
"""Channels, hidden units or pixels."""
Blocks = Annotated[int, within(ge=1, le=256)]
Threads = Annotated[int, within(ge=1, le=4096)]
Rate = Annotated[float, within(gt=0, le=1e9)]
"""A learning rate."""
Weight = Annotated[float, within(ge=0, le=1e9)]
"""Of a term of a loss; also the decay of weights, and what a gradient is clipped at, 0 for nothing."""
Share = Annotated[float, within(ge=0, le=1)]
BelowOne = Annotated[float, within(ge=0, lt=1)]
"""A share that is never the whole, such as what an average keeps of itself in a step."""
Sigma = Annotated[float, within(ge=1e-6, le=1e6)]
"""A noise level, or the standard deviation of the data."""
LogSigma = Annotated[float, within(ge=-20, le=20)]
"""The mean of the logarithm of noise levels."""
Spread = Annotated[float, within(gt=0, le=20)]
"""The standard deviation of the logarithm of noise levels."""
Amount = Annotated[float, within(ge=0, le=1e6)]
"""Of a Ray resource; 0 for none."""
Seconds = Annotated[float, within(ge=0, le=1e9)]
"""Seconds, milliseconds or hours."""
Tflops = Annotated[float, within(gt=0, le=1e9)]
"""10^12 floating-point operations per second."""
Gigabytes = Annotated[float, within(gt=0, le=1e6)]
Price = Annotated[float, within(ge=0, le=1e9)]
