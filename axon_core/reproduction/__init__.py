"""From CTs to the paper's tables in one command: `axon reproduce`."""
