"""What a run shows for itself: figures, tables and one self-contained HTML report."""
