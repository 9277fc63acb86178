"""How soon a fault is found, and how often a healthy canary is condemned: the engine beside other tools' rules, simulated."""
