"""Pages on which people look at images."""
