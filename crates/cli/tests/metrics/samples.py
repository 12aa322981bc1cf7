"""Prints how many samples Python's prometheus_client finds on its standard input."""
import sys
try:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_metrics
    from prometheus_client.parser import text_string_to_metric_families as text
except ImportError:
    sys.exit(77)
parse = open_metrics if sys.argv[1] == "open" else text
print(sum(len(metric.samples) for metric in parse(sys.stdin.read())))
