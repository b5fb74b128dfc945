"""The pages that people see: rendered on the server, with a little script where something is live."""
