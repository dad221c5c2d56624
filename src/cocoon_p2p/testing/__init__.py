"""For tests of this package and of others: fakes, tiny models, and the contract suites of the ports."""
