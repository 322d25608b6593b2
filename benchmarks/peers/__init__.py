"""How the peers are driven: as their users would, with the precision, batch, dropout (none) and clipping of ours."""
