"""ALFWorld, the third benchmark of the paper: an engine of its text games, its tasks and its measurements."""
