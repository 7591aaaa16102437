"""How the values of options are read."""

import argparse

EXPORTS = ("voc", "coco", "yolo", "soft", "onehot", "irn")


def number(kind: type, low: float, high: float = 1e9, *, open_low: bool = False):
    """Parser of a finite number in [low, high], or (low, high] with `open_low`."""

    def parse(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
        if not (low < value if open_low else low <= value) or not value <= high:
            limit = f"above {low}" if open_low else f"at least {low}"
            limit += f" and at most {high:g}"
            raise argparse.ArgumentTypeError(f"{text} is out of range: it must be {limit}")
        return value

    return parse


def boolean(text: str) -> bool:
    values = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if text.lower() not in values:
        raise argparse.ArgumentTypeError(f"{text!r} is neither True nor False")
    return values[text.lower()]


def check_kind(text: str) -> str:
    if text in ("full", "quick"):
        return text
    return "full" if boolean(text) else ""


def exports(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.replace(",", " ").split()))
    if unknown := set(names) - {*EXPORTS, "all"}:
        raise argparse.ArgumentTypeError(f"{min(unknown)!r} is none of {', '.join(EXPORTS)}, all")
    return EXPORTS if "all" in names else names


def numbers(kind: type, low: float, high: float, count: int | None = None):
    """Parser of numbers separated by commas, e.g. "1.0,0.5,1.5,2.0"."""
    parse_one = number(kind, low, high)

    def parse(text: str) -> tuple:
        values = tuple(parse_one(word) for word in text.replace(",", " ").split())
        if not values:
            raise argparse.ArgumentTypeError("is empty: give numbers separated by commas")
        if count not in (None, len(values)):
            raise argparse.ArgumentTypeError(f"{text!r} must be {count} numbers with a comma")
        return values

    return parse


def scales(text: str) -> tuple[float, ...]:
    values = numbers(float, 0.05, 8.0)(text)
    if values[0] != 1.0:
        # RIB's early stop looks at scale 1.0 before it computes the others.
        raise argparse.ArgumentTypeError(f"{text!r} must start with 1.0")
    if len(set(values)) != len(values):
        raise argparse.ArgumentTypeError(f"{text!r} names a scale twice")
    return values


def multiple_of_16(text: str) -> int:
    value = number(int, 64)(text)
    if value % 16:
        raise argparse.ArgumentTypeError(f"{text} is out of range: it must be a multiple of 16")
    return value


count = number(int, 1)
count_or_zero = number(int, 0)
fraction = number(float, 0.0, 1.0)
positive = number(float, 0.0, open_low=True)
not_negative = number(float, 0.0)
rate = number(float, 0.0, 100.0, open_low=True)  # of learning; beyond it nothing stays finite
decay = number(float, 0.0, 1.0)
processes = number(int, 1, 1024)  # of a machine; libraries crash with far more threads
workers = number(int, 0, 1024)
