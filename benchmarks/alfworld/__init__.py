"""ALFWorld: household tasks as text games, played on their PDDL problems."""
