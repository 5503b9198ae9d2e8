"""What is optimised: one file per objective."""
