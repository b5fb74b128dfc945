"""Search: an index on disk, and clients of remote engines, behind one protocol."""
