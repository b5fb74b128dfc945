"""Knowledge graphs outside: triples on disk or behind a SPARQL endpoint, one protocol."""
