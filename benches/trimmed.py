"""The interval of `proactor compare`, in another language: to check it, and to use it elsewhere."""

import math
import statistics


def student(alpha, freedom):
    """The t that Student's distribution exceeds on either side with this probability."""

    def within(t):
        theta = math.atan(t / math.sqrt(freedom))
        c, s = math.cos(theta), math.sin(theta)
        odd = freedom % 2
        term, total = (c, c) if odd else (1.0, 1.0)
        for k in range(2 if odd else 1, freedom - 1, 2):
            term *= c * c * k / (k + 1)
            total += term
        if not odd:
            return s * total
        return 2 / math.pi * (theta + s * (total if freedom > 1 else 0))

    low, high = 0.0, 1e6
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < 1 - alpha else (low, middle)
    return low


def interval(logs, alpha):
    """The trimmed t interval, with its ends as `compare` prints them."""
    x, n = sorted(logs), len(logs)
    g = n // 10
    h = n - 2 * g
    centre = statistics.fmean(x[g : n - g])
    w = [min(max(v, x[g]), x[n - g - 1]) for v in x]
    middle = statistics.fmean(w)
    se = math.sqrt(sum((v - middle) ** 2 for v in w) / (h * (h - 1)))
    half = student(alpha, h - 1) * se
    low = math.floor(1000 * math.exp(centre - half) + 1e-6) / 1000
    high = math.ceil(1000 * math.exp(centre + half) - 1e-6) / 1000
    return math.exp(centre), low, high
