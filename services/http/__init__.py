"""What the three services share of HTTP: problems, limits, request ids, logs, metrics, health. No model."""
