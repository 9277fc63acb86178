"""How long real faults last under the real proxy, and how many users they hurt: `python -m bench.live`."""
