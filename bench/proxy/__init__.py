"""What a proxied request costs, beside nginx, HAProxy and a naive proxy: `python -m bench.proxy`."""
