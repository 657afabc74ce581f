"""Numbers as people read them."""


def duration(seconds: float | None) -> str:
    """Such as 4.5 s, 3 min 20 s or 2 h 05 min; a dash where it is not known."""
    if seconds is None or seconds != seconds:
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60) if seconds >= 3600 else int(seconds // 60)
    if seconds < 3600:
        return f"{minutes} min {int(seconds % 60):02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
