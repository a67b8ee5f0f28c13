"""Who computes with whom: meshes, layouts and collectives."""
