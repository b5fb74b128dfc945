"""One module for each paper whose authors released records of their runs; see `ken.papers.replay.Replay`."""
