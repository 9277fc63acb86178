"""canaryproxy: a reverse proxy that splits traffic between two versions, judges both, and promotes or rolls back by itself."""

__version__ = "0.1.0"
