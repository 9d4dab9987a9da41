"""The paper's tables and figures as commands, `reproduce`, `ablate` and the timing of Table 15; and `tune`."""
