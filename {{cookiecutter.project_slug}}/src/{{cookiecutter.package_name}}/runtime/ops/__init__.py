"""Operating a service: probes, status, metrics, and the orders of `ctl`."""
