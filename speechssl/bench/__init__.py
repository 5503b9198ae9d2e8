"""How fast: steps, embeddings and files per second beside other packages, and beside what the processor can multiply."""
