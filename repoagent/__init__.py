"""repoagent: a local repository-exploration assistant (Reflect-RL, arXiv 2402.12621)."""

__version__ = "0.1.0"
