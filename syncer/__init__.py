"""AWS Partner Central connections in Postgres: source → fetch → normalize → write → acknowledge."""

__version__ = "0.1.0"
