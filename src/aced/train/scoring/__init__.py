"""What a step trains on, and the ways to score candidates for little.

Each module is one piece: `choosing` (the plain choice), `cascade` (the reference keeps the
easier share before the student scores), `sieve` (the same before anything is loaded), `scorers` (the student's
embeddings, at full or lower resolution), `memory` (the student's embeddings of earlier steps), `make`
(the pieces that a config asks for, put together once).
"""
