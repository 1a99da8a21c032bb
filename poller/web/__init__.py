"""What operators and machines ask over HTTP: health, readiness, metrics. On loopback unless told otherwise."""
