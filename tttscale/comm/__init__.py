"""The only place with process groups: the mesh, and one way to hand a carry over per transport."""
