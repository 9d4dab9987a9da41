"""What tests share: small runs, toy upstreams, reference formulas."""
