"""Networks: the weight-sharing supernet, and the stand-alone network of one architecture."""
