"""Many pictures: a plan that fixes every result, a ledger of what became of each, and who works on it."""
