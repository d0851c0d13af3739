"""AutoExplore: questions about real repositories, answered with a file and its lines."""
