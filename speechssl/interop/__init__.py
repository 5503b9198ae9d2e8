"""The formats of other libraries."""
