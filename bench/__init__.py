"""Speed, as paired ratios measured in one run; `make bench` writes docs/performance.md. Nothing here is a test."""
