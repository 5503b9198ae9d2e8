"""How fast it is: measurements beside the models and loaders of others."""
