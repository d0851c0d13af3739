"""``python -m repoagent``."""

from repoagent.cli import main

if __name__ == "__main__":
    main()
