"""What every room stands on: streams, seeds, processes, files, recipes, errors."""
